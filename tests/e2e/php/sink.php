<?php
// Reads an upload of any size piece by piece and says what it was.
$hash = hash_init('sha256');
$body = fopen('php://input', 'rb');
$length = hash_update_stream($hash, $body);
echo json_encode(['length' => $length, 'sha256' => hash_final($hash)]);
