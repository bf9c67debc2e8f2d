<?php
// Shows the request as PHP sees it: an ordinary page that knows nothing of a gateway.
header('Content-Type: application/json');
$files = [];
foreach ($_FILES as $name => $file) {
    $files[$name] = ['name' => $file['name'], 'sha256' => hash_file('sha256', $file['tmp_name'])];
}
echo json_encode([
    'server' => $_SERVER,
    'get' => $_GET,
    'post' => $_POST,
    'cookie' => $_COOKIE,
    'files' => $files,
    'body_sha256' => hash('sha256', file_get_contents('php://input')),
], JSON_THROW_ON_ERROR | JSON_INVALID_UTF8_SUBSTITUTE);
