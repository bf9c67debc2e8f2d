<?php
// A long poll: says nothing until the file is there, then all of it at once.
for ($waits = 0; $waits < 2000 && !file_exists($_GET['file']); $waits++) {
    usleep(10000);
    clearstatcache();
}
header('Content-Type: text/plain');
echo file_get_contents($_GET['file']);
