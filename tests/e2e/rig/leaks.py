"""Every secret that the tests come to know, and the search for it in all that was written.

What must not be found anywhere: app secrets, session_keys, signing keys, login codes, tokens and
their parts. What must not be found in what the gateway writes: openids and unionids either, which
stand in its log only as a keyed hash.
"""

from pathlib import Path

_secrets: set[str] = set()
_people: set[str] = set()
_answers: list[bytes] = []

# The answers whose job it is to hold a token, and the phone's that holds a code.
_MAY_HOLD_A_SECRET = ("/wx/auth", "/wx/refresh", "/sandbox/", "/sns/", "/cgi-bin/")


def secret(text: str) -> str:
    """Remembers a secret, and returns it."""
    assert len(text) >= 8, "too short to be told from chance"
    _secrets.add(text)
    return text


def token(text: str) -> str:
    """Remembers a token, its claims and its signature."""
    _, claims, signature = text.split(".")
    for part in (text, claims, signature):
        secret(part)
    return text


def person(text: str) -> str:
    """Remembers an openid or unionid."""
    assert len(text) >= 8
    _people.add(text)
    return text


def saw(path: str, answer) -> None:
    """Keeps an answer for the search, unless its job is to hold a token."""
    if path.startswith(_MAY_HOLD_A_SECRET) and answer.status < 400:
        return
    headers = "".join(f"{name}: {value}\n" for name, value in answer.headers)
    _answers.append(f"{path} {answer.status}\n{headers}\n".encode() + answer.body[:65536])


def counted() -> tuple[int, int]:
    """How many secrets, and how many openids and unionids, are known."""
    return len(_secrets), len(_people)


def found(work: Path, written_by_gateway: set[Path]) -> tuple[list[str], int]:
    """Where a secret stands in an answer or a file of `work`, and how many were searched."""
    places = []
    for number, answer in enumerate(_answers):
        places += [f"answer {number} ({answer[:60]!r})" for known in _secrets if known.encode() in answer]
    files = [file for file in sorted(work.rglob("*")) if file.is_file() and file.suffix == ".log"]
    for file in files:
        text = file.read_bytes()
        known = _secrets | _people if file in written_by_gateway else _secrets
        places += [f"{file}: {word[:6]}…" for word in known if word.encode() in text]
    return places, len(_answers) + len(files)
