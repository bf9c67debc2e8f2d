"""Runs the end-to-end tests: the real program between real peers, then the search for leaks.

`run.py --binary PATH --sdks FOLDER [TEST …]`; a TEST is a name that unittest takes, such as
`test_life` or `test_identity.TomcatRequestHeaderExample`. Everything is kept in a temporary folder,
which stays where something failed.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent


class OneLine(unittest.TextTestResult):
    """One line per test: where, what, how long."""

    def getDescription(self, test: unittest.TestCase) -> str:
        whole = getattr(test, "test_case", test)
        name = getattr(whole, "_testMethodName", str(whole)).removeprefix("test_").replace("_", " ")
        part = f" {test._subDescription()}" if whole is not test else ""
        return f"{type(whole).__module__}.{type(whole).__name__}: {name}{part}"

    def startTest(self, test: unittest.TestCase) -> None:
        self.began = time.monotonic()
        super().startTest(test)

    def addSuccess(self, test: unittest.TestCase) -> None:
        self.stream.write(f"({time.monotonic() - self.began:.1f} s) ")
        super().addSuccess(test)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--sdks", type=Path, required=True)
    parser.add_argument("tests", nargs="*")
    arguments = parser.parse_args()

    # Servers that give up root's rights must be able to reach what lies in here.
    work = Path(tempfile.mkdtemp(prefix="wxgate-e2e-"))
    work.chmod(0o711)
    os.environ["WXGATE"] = str(arguments.binary.resolve())
    os.environ["SDKS"] = str(arguments.sdks.resolve())
    os.environ["E2E_WORK"] = str(work)
    # A run that is told to stop ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))

    sys.path.insert(0, str(HERE))
    import stage
    from rig import leaks
    from rig.gateway import Gateway
    from rig.process import Process

    loader = unittest.defaultTestLoader
    suite = loader.loadTestsFromNames(arguments.tests) if arguments.tests else loader.discover(
        str(HERE), pattern="test_*.py", top_level_dir=str(HERE)
    )
    try:
        result = unittest.TextTestRunner(
            stream=sys.stdout, verbosity=2, resultclass=OneLine, descriptions=False
        ).run(suite)
    finally:
        stage.Stage.clear()
        for process in list(Process.started):
            process.stop()

    places, searched = leaks.found(work, Gateway.written)
    secrets, people = leaks.counted()
    print(f"{secrets} secrets and {people} openids looked for in {searched} logs and answers")
    for place in places[:20]:
        print(f"LEAK: {place}")
    if len(places) > 20:
        print(f"and {len(places) - 20} more")

    # A test with several failed parts is one failed test; the search for leaks is a test too.
    broken = {getattr(test, "test_case", test).id() for test, _ in result.failures + result.errors}
    failed = len(broken) + bool(places) + (result.testsRun == 0)
    passed = max(result.testsRun - len(broken) - len(result.skipped), 0) + (not places)
    if failed:
        print(f"logs and configurations are kept in {work}")
    else:
        shutil.rmtree(work)
    print(f"e2e: {passed} passed, {failed} failed, {len(result.skipped)} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
