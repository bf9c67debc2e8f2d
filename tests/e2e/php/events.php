<?php
// An event stream: each event is sent once the file for it is there, as if something had happened.
header('Content-Type: text/event-stream');
header('Cache-Control: no-store');
// PHP may be configured to collect what a page writes.
while (ob_get_level() > 0) {
    ob_end_flush();
}
for ($event = 1; $event <= 3; $event++) {
    for ($waits = 0; $waits < 2000 && !file_exists("{$_GET['file']}.$event"); $waits++) {
        usleep(10000);
        clearstatcache();
    }
    echo "id: $event\ndata: event $event\n\n";
    flush();
}
