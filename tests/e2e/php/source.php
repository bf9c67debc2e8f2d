<?php
// A download of `mib` MiB, each block different from the last.
$blocks = 16 * (int) $_GET['mib'];
header('Content-Type: application/octet-stream');
header('Content-Length: ' . $blocks * 65536);
for ($block = 0; $block < $blocks; $block++) {
    echo str_repeat(sprintf('%08d', $block), 8192);
}
