"""Sessions of unmodified PHP and Java backends for a client that keeps no cookies."""

import re
from concurrent.futures import ThreadPoolExecutor

from rig.backends import ApacheFpm, NginxFpm, PhpBuiltIn, Tomcat
from rig.client import Answer, User, request
from stage import BackendTests


class BridgeTests(BackendTests):
    """What every kind of backend has in common."""

    def ask(self, user: User | None, path: str, cookie: str | None = None) -> Answer:
        """One request of a client that keeps nothing of the answer."""
        headers = [user.bearer] if user else []
        headers += [("Cookie", cookie)] if cookie else []
        answer = request(self.gateway.port, "GET", "/bridged" + path, headers)
        self.assertEqual(answer.status, 200, answer.text())
        self.assertEqual(answer.all("Set-Cookie") if user else [], [])
        return answer


class Php:
    """PHPSESSID of an ordinary page; the classes below name the server."""

    def visit(self, user: User | None, query: str = "", cookie: str | None = None) -> dict:
        """What the page says."""
        return self.ask(user, "/session.php" + query, cookie).json()

    def test_a_session_goes_on_from_visit_to_visit_and_ends_where_the_page_ends_it(self) -> None:
        alice = self.gateway.log_in("alice")
        first = self.visit(alice)
        self.assertEqual((first["visits"], first["cookies"]), (1, []))
        again = self.visit(alice)
        self.assertEqual((again["id"], again["visits"]), (first["id"], 2))
        self.assertEqual(self.visit(alice, "?end=1")["visits"], 3)
        anew = self.visit(alice)
        self.assertEqual((anew["visits"], anew["cookies"]), (1, []))

    def test_users_and_guests_do_not_meet_in_it(self) -> None:
        alice, bob = self.gateway.log_in("alice"), self.gateway.log_in("bob")
        at_alices = self.visit(alice)["id"]
        self.assertEqual(self.visit(bob)["visits"], 1)
        self.assertEqual(self.visit(None)["cookies"], [])
        self.assertEqual(self.visit(None)["visits"], 1)
        self.assertEqual(self.visit(self.gateway.log_in("alice"))["visits"], 1)
        self.assertEqual(self.visit(alice)["id"], at_alices)
        # Nobody chooses a session for somebody whose own is kept.
        forged = self.visit(alice, cookie=f"PHPSESSID={'f' * 26}; theme=dark")
        self.assertEqual((forged["id"], forged["visits"]), (at_alices, 3))
        self.assertEqual(forged["cookies"]["theme"], "dark")

    def test_many_at_once_stay_in_their_sessions(self) -> None:
        users = [self.gateway.log_in(f"user{number}") for number in range(8)]
        ids = [self.visit(user)["id"] for user in users]
        self.assertEqual(len(set(ids)), 8)
        with ThreadPoolExecutor(8) as pool:
            seen = list(pool.map(lambda user: self.visit(user)["id"], users * 5))
        self.assertEqual(seen, ids * 5)
        self.assertEqual([self.visit(user)["visits"] for user in users], [7] * 8)


class NginxAndPhpFpm(Php, BridgeTests):
    """nginx and php-fpm"""

    backend_type = NginxFpm


class ApacheAndPhpFpm(Php, BridgeTests):
    """Apache and php-fpm, every request in the full lane"""

    backend_type = ApacheFpm
    lane = "full"


class PhpBuiltInServer(Php, BridgeTests):
    """`php -S`"""

    backend_type = PhpBuiltIn


class TomcatSessionExample(BridgeTests):
    """Tomcat's SessionExample servlet: JSESSIONID, with a path of its own"""

    backend_type = Tomcat
    page = "/examples/servlets/servlet/SessionExample"

    def test_what_a_user_put_into_the_session_is_there_at_the_next_visit(self) -> None:
        alice, bob = self.gateway.log_in("alice"), self.gateway.log_in("bob")

        def number(answer: Answer) -> str:
            found = re.search(r"Session ID:?\s*([0-9A-F]{32})", answer.text())
            assert found, answer.text()
            return found[1]

        first = self.ask(alice, self.page + "?dataname=cart&datavalue=three-pears")
        self.assertIn("three-pears", first.text())
        again = self.ask(alice, self.page)
        self.assertEqual(number(again), number(first))
        self.assertIn("three-pears", again.text())
        other = self.ask(bob, self.page)
        self.assertNotEqual(number(other), number(first))
        self.assertNotIn("three-pears", other.text())
        self.assertNotIn("three-pears", self.ask(None, self.page).text())
