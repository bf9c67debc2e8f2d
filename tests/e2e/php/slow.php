<?php
// Begins to answer at once, and ends after `ms` milliseconds.
header('Content-Type: text/plain');
echo str_repeat('begun ', 1000);
flush();
usleep(1000 * (int) $_GET['ms']);
echo 'done';
