"""Unmodified PHP and Java backends from Debian's packages, each with a configuration of its own.

Where a server has an option that lets more odd header names through to the application, it is
switched on: the gateway must not depend on the backend's help.
"""

import glob
import json
import os
import re
import shutil
from pathlib import Path

from .client import Answer
from .process import Process, await_that, free_port

HERE = Path(__file__).resolve().parent.parent
PHP_PAGES = HERE / "php"
REPOSITORY = HERE.parent.parent

Seen = list[tuple[str, str]]


def _program(pattern: str) -> str:
    """The newest of the programs that fit a pattern."""
    found = sorted(glob.glob(pattern))
    assert found, f"{pattern} is missing: `.ci/packages test` installs it"
    return found[-1]


class PhpBackend:
    """What all ways to run PHP have in common: the pages, and how to ask them."""

    echo = "/echo.php"

    @staticmethod
    def headers(answer: Answer) -> Seen:
        """The request headers that the page saw, names as `$_SERVER` has them without HTTP_."""
        assert answer.status == 200, (answer.status, answer.text())
        server = answer.json()["server"]
        return [(name[5:], value) for name, value in server.items() if name.startswith("HTTP_")]


class PhpBuiltIn(PhpBackend):
    """`php -S`: PHP's own web server, which reads headers by itself."""

    pages = PHP_PAGES

    def __init__(self, folder: Path, *router: str) -> None:
        """`router` is the page that every path leads to, if there is one."""
        self.port = free_port()
        argv = ["php", "-S", f"127.0.0.1:{self.port}", "-t", str(self.pages), *router]
        self.server = Process(folder / "php-s", argv)
        self.server.await_port(self.port)

    def stop(self) -> None:
        """Ends it."""
        self.server.stop()


class Fpm:
    """php-fpm on a socket."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.socket = folder / "php.sock"
        root = os.geteuid() == 0
        user = "user = root\ngroup = root\n" if root else ""
        (folder / "fpm.conf").write_text(
            f"""[global]
daemonize = no
error_log = {folder}/fpm.log
[www]
{user}listen = {self.socket}
listen.mode = 0666
pm = static
pm.max_children = 12
catch_workers_output = yes
php_admin_value[post_max_size] = 0
php_admin_value[upload_max_filesize] = 64M
php_admin_value[memory_limit] = 64M
php_admin_value[output_buffering] = 0
php_admin_value[max_execution_time] = 120
"""
        )
        argv = [_program("/usr/sbin/php-fpm*"), "-F", "-y", str(folder / "fpm.conf")]
        self.server = Process(folder, argv + (["-R"] if root else []))
        await_that(self.socket.exists, f"php-fpm has its socket\n{self.server.stderr()}")

    def stop(self) -> None:
        """Ends it."""
        self.server.stop()


class NginxFpm(PhpBackend):
    """nginx and php-fpm, with nginx told to pass on odd header names too."""

    static = "/static"

    def __init__(self, folder: Path) -> None:
        self.fpm = Fpm(folder / "nginx-fpm")
        self.port = free_port()
        place = folder / "nginx"
        place.mkdir(parents=True)
        # Workers of a root nginx must be able to read the pages, wherever they were checked out.
        user = "user root;" if os.geteuid() == 0 else ""
        temporary = "".join(
            f"{kind}_temp_path {place}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (place / "nginx.conf").write_text(
            f"""{user}
daemon off;
pid {place}/nginx.pid;
error_log {place}/error.log;
worker_processes 1;
events {{ worker_connections 2048; }}
http {{
  {temporary}
  access_log {place}/access.log;
  client_max_body_size 0;
  underscores_in_headers on;
  ignore_invalid_headers off;
  server {{
    listen 127.0.0.1:{self.port}{self.tls(place)};
    root {PHP_PAGES};
    location /small/ {{ client_max_body_size 1k; }}
    location = /static {{ access_log off; default_type text/plain; return 200 "static\\n"; }}
    # PHP wants to know the length beforehand, which nginx only learns by collecting the chunks.
    location = /chunked/sink.php {{
      include /etc/nginx/fastcgi_params;
      fastcgi_param SCRIPT_FILENAME $document_root/sink.php;
      fastcgi_pass unix:{self.fpm.socket};
      fastcgi_read_timeout 120s;
    }}
    location ~ \\.php$ {{
      include /etc/nginx/fastcgi_params;
      fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
      fastcgi_pass unix:{self.fpm.socket};
      fastcgi_request_buffering off;
      fastcgi_buffering off;
      fastcgi_read_timeout 120s;
    }}
  }}
}}
"""
        )
        argv = [_program("/usr/sbin/nginx"), "-p", str(place), "-c", str(place / "nginx.conf"),
                "-e", str(place / "error.log")]
        self.server = Process(place, argv)
        self.server.await_port(self.port)

    def tls(self, _place: Path) -> str:
        """What stands behind the port, for a server that speaks TLS."""
        return ""

    def stop(self) -> None:
        """Ends both."""
        self.server.stop()
        self.fpm.stop()


class ApacheFpm(PhpBackend):
    """Apache and php-fpm."""

    def __init__(self, folder: Path) -> None:
        self.fpm = Fpm(folder / "apache-fpm")
        self.port = free_port()
        place = folder / "apache"
        place.mkdir(parents=True)
        user = "User nobody\nGroup nogroup" if os.geteuid() == 0 else ""
        modules = "".join(
            f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"
            for name in ("mpm_event", "authz_core", "env", "proxy", "proxy_fcgi")
        )
        (place / "apache.conf").write_text(
            f"""ServerRoot {place}
ServerName localhost
PidFile {place}/apache.pid
Listen 127.0.0.1:{self.port}
{modules}{user}
ErrorLog {place}/error.log
LogFormat "%h %r %>s \\"%{{Referer}}i\\" \\"%{{User-Agent}}i\\"" combined
CustomLog {place}/access.log combined
HttpProtocolOptions Unsafe
DocumentRoot {place}
# PHP wants to know the length beforehand, which Apache only learns by collecting the chunks.
SetEnv proxy-sendcl 1
ProxyPassMatch "^/(.*\\.php)$" "unix:{self.fpm.socket}|fcgi://localhost{PHP_PAGES}/$1" flushpackets=on
"""
        )
        argv = [_program("/usr/sbin/apache2"), "-DFOREGROUND", "-f", str(place / "apache.conf")]
        self.server = Process(place, argv)
        self.server.await_port(self.port)

    def stop(self) -> None:
        """Ends both."""
        self.server.stop()
        self.fpm.stop()


class Tomcat:
    """Tomcat 10 with the examples that come with it."""

    echo = "/examples/servlets/servlet/RequestHeaderExample"

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        base = folder / "tomcat"
        for name in ("conf/Catalina/localhost", "logs", "temp", "work", "webapps"):
            (base / name).mkdir(parents=True)
        (base / "conf/server.xml").write_text(
            f"""<Server port="-1">
  <Service name="Catalina">
    <Connector address="127.0.0.1" port="{self.port}" protocol="HTTP/1.1"/>
    <Engine name="Catalina" defaultHost="localhost">
      <Host name="localhost" appBase="webapps">
        <Valve className="org.apache.catalina.valves.AccessLogValve" directory="logs"
               prefix="access" suffix=".log" pattern="combined" buffered="false"/>
      </Host>
    </Engine>
  </Service>
</Server>
"""
        )
        # As in every Tomcat; a WebSocket is a filter, which needs a servlet behind it.
        (base / "conf/web.xml").write_text(
            """<web-app xmlns="https://jakarta.ee/xml/ns/jakartaee" version="6.0">
  <servlet>
    <servlet-name>default</servlet-name>
    <servlet-class>org.apache.catalina.servlets.DefaultServlet</servlet-class>
  </servlet>
  <servlet-mapping>
    <servlet-name>default</servlet-name>
    <url-pattern>/</url-pattern>
  </servlet-mapping>
</web-app>
"""
        )
        shutil.copy(
            REPOSITORY / "deploy/java/examples.xml", base / "conf/Catalina/localhost/examples.xml"
        )
        self.server = Process(
            base,
            ["/bin/sh", "/usr/share/tomcat10/bin/catalina.sh", "run"],
            {
                "CATALINA_HOME": "/usr/share/tomcat10",
                "CATALINA_BASE": str(base),
                "CATALINA_OPTS": "-Xmx128m -Dexamples=/usr/share/tomcat10-examples/examples",
            },
        )
        self.server.await_port(self.port)

    @staticmethod
    def headers(answer: Answer) -> Seen:
        """The request headers that the servlet saw, as its page shows them."""
        assert answer.status == 200, (answer.status, answer.text())
        if answer.text().startswith("["):
            return [pair for row in json.loads(answer.text()) for pair in row.items()]
        return re.findall(
            r'<tr><td bgcolor="#CCCCCC">\s*(.*?)\s*</td><td>\s*(.*?)\s*</td></tr>',
            answer.text(),
            re.DOTALL,
        )

    def stop(self) -> None:
        """Ends it."""
        self.server.stop()
