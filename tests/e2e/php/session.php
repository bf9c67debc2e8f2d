<?php
// Counts the visits of a session: an ordinary page that knows nothing of a gateway.
session_start();
$_SESSION['visits'] = ($_SESSION['visits'] ?? 0) + 1;
if (isset($_GET['end'])) {
    // As the manual has it: the cookie is deleted too.
    $params = session_get_cookie_params();
    setcookie(session_name(), '', time() - 42000, $params['path'], $params['domain']);
    session_destroy();
}
header('Content-Type: application/json');
echo json_encode(['id' => session_id(), 'visits' => $_SESSION['visits'], 'cookies' => $_COOKIE]);
