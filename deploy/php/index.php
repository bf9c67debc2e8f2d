<?php
// A page that greets whoever the gateway vouches for.
header('Content-Type: text/plain; charset=utf-8');
echo 'openid:  ', $_SERVER['HTTP_X_WX_OPENID'] ?? '(a guest)', "\n";
echo 'appid:   ', $_SERVER['HTTP_X_WX_APPID'] ?? '-', "\n";
echo 'unionid: ', $_SERVER['HTTP_X_WX_UNIONID'] ?? '-', "\n";
