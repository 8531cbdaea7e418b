"""Children of a stack, real ones: how they start, fail and end, whatever becomes of their owner."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from devstack.errors import StackError, StartError
from devstack.guard import is_alive
from devstack.processes import ProcessTable
from tests.devstack.leftovers import marked_with, still_there

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]

MULE = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("set", flush=True)
time.sleep(600)
"""

# Starts a child in a session of its own and leaves it orphaned; writes the orphan's pid.
FORKER = """
import os, subprocess, sys, time
orphan = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
open("orphan", "w").write(str(orphan.pid))
if sys.argv[1] == "leave": os._exit(0)
time.sleep(600)
"""

# A stack's owner: two children, one with an orphan of its own; tells when they run, then waits.
OWNER = f'''
import sys, time
from pathlib import Path
from devstack.processes import ProcessTable
root = Path(sys.argv[1])
forker = {FORKER!r}
listener = """
import signal, sys, time
def end(number, frame):
    print(number, flush=True)
    sys.exit()
signal.signal(signal.SIGINT, end)
signal.signal(signal.SIGTERM, end)
print("set", flush=True)
time.sleep(600)
"""
with ProcessTable(root) as table:
    table.start("listener", [sys.executable, "-c", listener],
                probe=lambda: "set" in table.log_file("listener").read_text())
    table.start("forker", [sys.executable, "-c", forker, "leave"])
    (table.temporary_folder("note") / "file").touch()
    while not (root / "orphan").exists(): time.sleep(0.01)
    print("ready", flush=True)
    time.sleep(600)
'''


@pytest.fixture
def table(tmp_path: Path) -> Iterator[ProcessTable]:
    with ProcessTable(tmp_path / "stack") as running:
        yield running


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", OWNER, str(tmp_path / "stack")]
    # A session of its own stands for the terminal's foreground group.
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        yield running
        running.kill()
    with ProcessTable(tmp_path / "stack"):
        pass  # removes its temporary folder


def children_of(root: Path) -> list[psutil.Process]:
    """What runs of the stack in this folder, orphans and guard included."""
    state = json.loads((root / "stack.json").read_text())
    marked = marked_with("CCAAS_STACK_ID", state["stack_id"])
    guard = [process for process in psutil.process_iter() if state["stack_id"] in _arguments(process)]
    assert len(marked) == 2
    assert len(guard) == 1
    return marked + guard


def _arguments(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_output_goes_to_the_log(table: ProcessTable) -> None:
    table.run("greeter", [sys.executable, "-c", "import sys; print('hello'); print('oops', file=sys.stderr)"])
    assert table.log_file("greeter").read_text() == "hello\noops\n"


def test_a_child_that_ends_while_starting_shows_its_log(table: ProcessTable) -> None:
    command = [sys.executable, "-c", "print('out of cheese'); raise SystemExit(3)"]
    with pytest.raises(StartError, match=r"(?s)clerk ended with status 3 while starting.*out of cheese"):
        table.start("clerk", command, probe=lambda: False)


def test_a_child_that_stays_unhealthy_is_ended_and_shows_its_log(table: ProcessTable) -> None:
    command = [sys.executable, "-u", "-c", "import time; print('still thinking'); time.sleep(600)"]
    with pytest.raises(StartError, match=r"(?s)not healthy after 1 s.*still thinking"):
        table.start("clerk", command, probe=lambda: False, deadline_s=1)
    assert still_there(marked_with("CCAAS_STACK_ID", table.stack_id)) == []


def test_a_command_that_fails_or_takes_too_long_is_an_error(table: ProcessTable) -> None:
    with pytest.raises(StartError, match=r"(?s)tool failed with status 2.*no such thing"):
        table.run("tool", [sys.executable, "-c", "import sys; sys.exit(print('no such thing') or 2)"])
    with pytest.raises(StartError, match="tool took longer than 0 s"):
        table.run("tool", SLEEP, deadline_s=0.3)


def test_a_program_that_does_not_exist_is_named(table: ProcessTable) -> None:
    with pytest.raises(StartError, match=r"clerk can't be started: .*no-such-program"):
        table.start("clerk", ["/no-such-program"])


def test_children_are_stopped_in_reverse_order(tmp_path: Path) -> None:
    note = tmp_path / "order"
    script = (
        "import signal, sys, time\n"
        "def end(*_): open(sys.argv[1], 'a').write(sys.argv[2]); sys.exit()\n"
        "signal.signal(signal.SIGTERM, end); print('set', flush=True); time.sleep(600)"
    )
    with ProcessTable(tmp_path / "stack") as table:
        for name in "abc":
            log = table.log_file(name)
            table.start(name, [sys.executable, "-c", script, note, name], probe=partial(_is_set, log))
    assert note.read_text() == "cba"


def test_a_child_that_ignores_sigterm_is_killed(table: ProcessTable) -> None:
    child = table.start("mule", [sys.executable, "-c", MULE], probe=partial(_is_set, table.log_file("mule")))
    child.stop(deadline_s=0.3)
    assert child.exit_code == -signal.SIGKILL


def test_descendants_in_other_sessions_end_with_the_child(table: ProcessTable) -> None:
    child = table.start("forker", [sys.executable, "-c", FORKER, "stay"], probe=(table.root / "orphan").exists)
    orphan = psutil.Process(_pid(table.root / "orphan"))
    child.stop()
    assert still_there([orphan]) == []


def test_orphans_end_with_the_block_even_by_exception(tmp_path: Path) -> None:
    children = []

    def work() -> None:
        with ProcessTable(tmp_path / "stack") as table:
            table.start("sleeper", SLEEP)
            table.run("forker", [sys.executable, "-c", FORKER, "leave"])
            children.extend(children_of(table.root))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert [process for process in children if is_alive(process)] == []
    assert not (tmp_path / "stack" / "stack.json").exists()


def test_after_the_end_nothing_starts(tmp_path: Path) -> None:
    with ProcessTable(tmp_path / "stack") as table:
        pass
    with pytest.raises(StackError, match="being stopped"):
        table.start("late", SLEEP)


def test_one_stack_a_folder(table: ProcessTable) -> None:
    with pytest.raises(StackError, match=r"running in .* already: stop it, or name another folder"):
        ProcessTable(table.root).__enter__()


def test_kill_9_of_the_owner_leaves_nothing(owner: subprocess.Popen[str], tmp_path: Path) -> None:
    children = children_of(tmp_path / "stack")
    owner.kill()
    assert still_there(children) == []


def test_sigterm_to_the_owner_leaves_nothing(owner: subprocess.Popen[str], tmp_path: Path) -> None:
    children = children_of(tmp_path / "stack")
    owner.terminate()
    assert still_there(children) == []


def test_ctrl_c_reaches_the_owner_alone_and_ends_all_in_order(owner: subprocess.Popen[str], tmp_path: Path) -> None:
    children = children_of(tmp_path / "stack")
    os.killpg(owner.pid, signal.SIGINT)  # what a terminal does
    owner.wait(20)
    assert still_there(children) == []
    assert (tmp_path / "stack" / "logs" / "listener.log").read_text() == f"set\n{signal.SIGTERM}\n"


def test_a_second_ctrl_c_kills_what_does_not_end(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from devstack.processes import ProcessTable\n"
        f"mule = [sys.executable, '-c', {MULE!r}]\n"
        "with ProcessTable(Path(sys.argv[1])) as table:\n"
        "    log = table.log_file('mule')\n"
        "    table.start('mule', mule, probe=lambda: 'set' in log.read_text())\n"
        "    print('ready', flush=True); time.sleep(600)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "ready\n"
        stack_id = json.loads((tmp_path / "stack.json").read_text())["stack_id"]
        (mule,) = marked_with("CCAAS_STACK_ID", stack_id)
        owner.send_signal(signal.SIGINT)
        time.sleep(1)
        assert is_alive(mule)
        owner.send_signal(signal.SIGINT)
        owner.wait(5)
    assert not is_alive(mule)


def test_a_second_start_ends_what_owner_and_guard_left(owner: subprocess.Popen[str], tmp_path: Path) -> None:
    root = tmp_path / "stack"
    *children, guard = children_of(root)
    guard.kill()
    owner.kill()
    owner.wait(5)
    assert [is_alive(process) for process in children] == [True, True]
    (temporary,) = map(Path, json.loads((root / "stack.json").read_text())["temporary"])
    assert (temporary / "file").exists()
    with ProcessTable(root):
        assert still_there(children) == []
        assert not temporary.exists()


def test_a_recorded_pid_that_belongs_to_another_now_is_left_alone(tmp_path: Path) -> None:
    stranger = subprocess.Popen(SLEEP)
    try:
        state = {"stack_id": "gone", "processes": [{"name": "x", "pid": stranger.pid, "created": time.time() - 3600}]}
        root = tmp_path / "stack"
        root.mkdir()
        (root / "stack.json").write_text(json.dumps(state))
        with ProcessTable(root):
            assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_temporary_folder_is_open_to_all_whatever_the_umask_and_ends_with_the_stack(tmp_path: Path) -> None:
    umask = os.umask(0o077)
    try:
        with ProcessTable(tmp_path) as table:
            folder = table.temporary_folder("note")
            assert not folder.is_relative_to(tmp_path)
            assert folder.stat().st_mode & 0o777 == 0o755
            (folder / "file").touch()
    finally:
        os.umask(umask)
    assert not folder.exists()


def test_a_recorded_folder_that_no_stack_made_is_left_alone(tmp_path: Path) -> None:
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    state = {"stack_id": "gone", "processes": [], "temporary": [str(stranger)]}
    (tmp_path / "stack.json").write_text(json.dumps(state))
    with ProcessTable(tmp_path):
        assert stranger.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"stack_id": "x"}'])
def test_a_damaged_state_file_does_not_hinder(tmp_path: Path, content: str) -> None:
    (tmp_path / "stack.json").write_text(content)
    with ProcessTable(tmp_path):
        pass


def _is_set(log: Path) -> bool:
    return "set" in log.read_text()


def _pid(note: Path) -> int:
    while not note.read_text():
        time.sleep(0.01)
    return int(note.read_text())
