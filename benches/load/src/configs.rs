//! What each candidate is told: one worker, connections to the backend kept open, an access log
//! where it can be written in batches, and otherwise what its own manual says.

use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;

use crate::candidates::{APPID, KEY, Place};
use crate::peers::Protocol;

/// Whether wxgate writes an access log.
#[derive(Clone, Copy)]
pub(crate) enum Log {
    On,
    Off,
}

pub(crate) fn wxgate(place: &Place<'_>, fast_lane: bool, log: Log) -> String {
    let access = match log {
        Log::On => "json",
        Log::Off => "off",
    };
    let (port, backend, path) = (place.port, place.backend, place.config.display());
    let tls = match place.protocol {
        Protocol::Http1 => String::new(),
        Protocol::Http1OverTls | Protocol::Http2 => {
            let (cert, key) = place.certificate();
            format!("[server.tls]\ncert = \"{cert}\"\nkey = \"{key}\"\n")
        }
    };
    format!(
        "[server]\nlisten = [\"127.0.0.1:{port}\"]\nthreads = 1\nfast_lane = {fast_lane}\n{tls}\
         [admin]\nlisten = \"127.0.0.1:0\"\n\
         [log]\naccess = \"{access}\"\naccess_file = \"{path}.access\"\n\
         [wechat]\napi_base = \"http://127.0.0.1:9\"\n\
         [[apps]]\nappid = \"{APPID}\"\nsecret = \"0123456789abcdef0123456789abcdef\"\nkind = \"miniprogram\"\n\
         [session]\nstore = \"memory\"\nsigning_keys = [{{ id = \"bench\", secret = \"{KEY}\" }}]\n\
         [[upstreams]]\nname = \"php\"\nservers = [\"127.0.0.1:{backend}\"]\nkeepalive = 1024\n\
         [[routes]]\nname = \"api\"\npath = \"/api/\"\nupstream = \"php\"\nauth = \"required\"\n"
    )
}

/// The answer to the subrequest comes from the backend, as it would from an authenticating one.
pub(crate) const AUTH_REQUEST: &str = "auth_request /auth; \
    auth_request_set $who $upstream_http_server; proxy_set_header X-WX-OPENID $who;";

/// The token is verified once by HMAC and then looked up.
pub(crate) const LUA: &str = r#"access_by_lua_block {
    local header = ngx.var.http_authorization
    local token = header and string.match(header, "^Bearer (.+)$")
    if not token then return ngx.exit(401) end
    local who = verified:get(token)
    if not who then
        who = verify(token)
        if not who then return ngx.exit(401) end
        verified:set(token, who, 60)
    end
    ngx.req.set_header("X-WX-OPENID", who)
    ngx.req.clear_header("Authorization")
}"#;

const LUA_INIT: &str = r#"
    lua_package_path "/usr/share/lua/5.1/?.lua;;";
    init_worker_by_lua_block {
        local lrucache = require "resty.lrucache"
        local cjson = require "cjson"
        verified = lrucache.new(10000)
        local function decode(text)
            text = text:gsub("-", "+"):gsub("_", "/")
            return ngx.decode_base64(text .. string.rep("=", (4 - #text % 4) % 4))
        end
        function verify(token)
            local head, body, mac = token:match("^([^.]+)%.([^.]+)%.([^.]+)$")
            if not head then return nil end
            local file = io.popen("printf %s '" .. head:gsub("[^%w_-]", "") .. "." .. body:gsub("[^%w_-]", "")
                .. "' | openssl dgst -sha256 -hmac KEY -binary | base64 -w0")
            local made = file:read("*a"):gsub("+", "-"):gsub("/", "_"):gsub("=", "")
            file:close()
            if made ~= mac then return nil end
            local claims = cjson.decode(decode(body))
            return claims.exp > ngx.time() and claims.sub or nil
        end
    }
"#;

pub(crate) fn nginx(place: &Place<'_>, how: &str) -> String {
    let modules = if how == LUA {
        "load_module /usr/lib/nginx/modules/ndk_http_module.so;\n\
         load_module /usr/lib/nginx/modules/ngx_http_lua_module.so;\n"
    } else {
        ""
    };
    let init = if how == LUA { LUA_INIT.replace("KEY", KEY) } else { String::new() };
    let (port, backend, path) = (place.port, place.backend, place.config.display());
    let (listen, tls) = match place.protocol {
        Protocol::Http1 => ("", String::new()),
        Protocol::Http1OverTls | Protocol::Http2 => {
            let (cert, key) = place.certificate();
            let tls = format!(
                "ssl_certificate {cert}; ssl_certificate_key {key}; ssl_protocols TLSv1.3;"
            );
            (" ssl http2", tls)
        }
    };
    format!(
        "{modules}daemon off; worker_processes 1; pid {path}.pid; error_log {path}.log;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ {init}\n access_log {path}.access combined buffer=64k flush=1s;\n\
         client_body_temp_path {path}.body; proxy_temp_path {path}.proxy;\n\
         fastcgi_temp_path {path}.f; uwsgi_temp_path {path}.u; scgi_temp_path {path}.s;\n\
         keepalive_requests 1000000000; keepalive_timeout 75s; tcp_nodelay on;\n\
         upstream php {{ server 127.0.0.1:{backend}; keepalive 1024; keepalive_requests 1000000000; }}\n\
         server {{ listen 127.0.0.1:{port}{listen}; {tls}\n\
         location = /auth {{ internal; proxy_pass http://php; proxy_pass_request_body off;\n\
         proxy_set_header Content-Length \"\"; proxy_http_version 1.1; proxy_set_header Connection \"\"; }}\n\
         location / {{ {how}\n proxy_pass http://php; proxy_http_version 1.1;\n\
         proxy_set_header Connection \"\"; proxy_set_header Host $http_host;\n\
         proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme; }} }} }}\n"
    )
}

/// Its log goes to standard output, a file here: line by line, as HAProxy always writes it.
pub(crate) fn haproxy(place: &Place<'_>, log: Log) -> String {
    let (port, backend) = (place.port, place.backend);
    let log = match log {
        Log::On => " log stdout format raw local0\n option httplog\n",
        Log::Off => "",
    };
    format!(
        "global\n nbthread 1\n maxconn 4096\n\
         defaults\n mode http\n{log} timeout client 75s\n timeout server 30s\n timeout connect 1s\n\
         timeout http-keep-alive 75s\n option http-keep-alive\n http-reuse always\n\
         frontend f\n bind 127.0.0.1:{port}\n\
         http-request set-var(txn.bearer) http_auth_bearer\n\
         http-request set-var(txn.alg) var(txn.bearer),jwt_header_query('$.alg')\n\
         http-request deny unless {{ var(txn.alg) -m str HS256 }}\n\
         http-request deny unless {{ var(txn.bearer),jwt_verify(txn.alg,\"{KEY}\") -m int 1 }}\n\
         http-request set-var(txn.exp) var(txn.bearer),jwt_payload_query('$.exp','int')\n\
         http-request set-var(txn.now) date()\n\
         http-request deny if {{ var(txn.exp),sub(txn.now) -m int lt 0 }}\n\
         http-request del-header x-wx- -m beg\n\
         http-request set-header X-WX-OPENID %[var(txn.bearer),jwt_payload_query('$.sub')]\n\
         http-request del-header authorization\n\
         option forwardfor\n default_backend b\n\
         backend b\n server s 127.0.0.1:{backend}\n"
    )
}

pub(crate) fn envoy(place: &Place<'_>) -> String {
    let (port, backend, key) = (place.port, place.backend, BASE64URL.encode(KEY));
    let path = place.config.display();
    let filters = format!(
        r#"[
          {{"name": "envoy.filters.http.jwt_authn", "typed_config": {{
            "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
            "providers": {{"wxgate": {{"issuer": "wxgate", "audiences": ["{APPID}"], "forward": false,
              "jwt_cache_config": {{"jwt_cache_size": 1000}},
              "claim_to_headers": [{{"header_name": "x-wx-openid", "claim_name": "sub"}}],
              "local_jwks": {{"inline_string":
                "{{\"keys\":[{{\"kty\":\"oct\",\"alg\":\"HS256\",\"kid\":\"bench\",\"k\":\"{key}\"}}]}}"}}}}}},
            "rules": [{{"match": {{"prefix": "/"}}, "requires": {{"provider_name": "wxgate"}}}}]}}}},
          {{"name": "envoy.filters.http.router", "typed_config": {{
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}}}]"#
    );
    format!(
        r#"{{"static_resources": {{
          "listeners": [{{"address": {{"socket_address": {{"address": "127.0.0.1", "port_value": {port}}}}},
            "filter_chains": [{{"filters": [{{"name": "envoy.filters.network.http_connection_manager",
              "typed_config": {{
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": "bench",
                "access_log": [{{"name": "envoy.access_loggers.file", "typed_config": {{
                  "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                  "path": "{path}.access"}}}}], "http_filters": {filters},
                "route_config": {{"virtual_hosts": [{{"name": "all", "domains": ["*"],
                  "routes": [{{"match": {{"prefix": "/"}}, "route": {{"cluster": "php"}}}}]}}]}}}}}}]}}]}}],
          "clusters": [{{"name": "php", "type": "STATIC", "connect_timeout": "1s",
            "circuit_breakers": {{"thresholds": [{{"max_connections": 4096, "max_pending_requests": 4096, "max_requests": 4096}}]}},
            "load_assignment": {{"cluster_name": "php", "endpoints": [{{"lb_endpoints": [{{"endpoint":
              {{"address": {{"socket_address": {{"address": "127.0.0.1", "port_value": {backend}}}}}}}}}]}}]}}}}]}}}}"#
    )
}

/// Without authentication: that would be a plugin.
pub(crate) fn caddy(place: &Place<'_>) -> String {
    let (port, backend, path) = (place.port, place.backend, place.config.display());
    format!(
        "{{\n admin off\n auto_https off\n persist_config off\n}}\n\
         http://127.0.0.1:{port} {{\n bind 127.0.0.1\n log {{\n output file {path}.access\n }}\n\
         reverse_proxy 127.0.0.1:{backend} {{\n transport http {{\n\
         keepalive_idle_conns_per_host 1024\n }}\n }}\n}}\n"
    )
}

/// Without authentication: it asks another service for that.
pub(crate) fn traefik(place: &Place<'_>) -> String {
    let (port, backend, path) = (place.port, place.backend, place.config.display());
    let routes = format!("{path}.routes.yaml");
    std::fs::write(
        &routes,
        format!(
            "http:\n  routers:\n    all: {{rule: \"PathPrefix(`/`)\", service: php}}\n\
             \x20 services:\n    php: {{loadBalancer: {{servers: [{{url: \"http://127.0.0.1:{backend}\"}}]}}}}\n"
        ),
    )
    .unwrap();
    format!(
        "global: {{checkNewVersion: false, sendAnonymousUsage: false}}\n\
         entryPoints: {{web: {{address: \"127.0.0.1:{port}\"}}}}\n\
         accessLog: {{filePath: \"{path}.access\", bufferingSize: 1000}}\n\
         serversTransport: {{maxIdleConnsPerHost: 1024}}\n\
         providers: {{file: {{filename: \"{routes}\"}}}}\n"
    )
}

/// The arguments of the program that is Pingora's proxy and nothing else.
pub(crate) fn bare(place: &Place<'_>) -> Vec<String> {
    vec![format!("127.0.0.1:{}", place.port), format!("127.0.0.1:{}", place.backend)]
}

/// `-c FILE` and nothing else.
pub(crate) fn by_file(config: &Path) -> Vec<String> {
    vec!["-c".to_owned(), config.display().to_string()]
}
