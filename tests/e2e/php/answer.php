<?php
// An answer with what applications send: a status of their own, several cookies, odd header case.
http_response_code((int) ($_GET['status'] ?? 200));
header('Set-Cookie: PHPSESSID=abc123; path=/; HttpOnly');
header('Set-Cookie: cart=7%2C8; path=/shop', false);
header('X-Application-Header: as it came');
if (isset($_GET['location'])) {
    header('Location: ' . $_GET['location']);
}
echo 'the application says so';
