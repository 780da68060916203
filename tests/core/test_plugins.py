from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest
from costar.core.plugins import code_sha256


def test_the_hash_of_a_plugin_follows_its_file_and_what_it_imports_from_its_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        "room/__init__.py": "",
        "room/tools.py": "from . import further\nfrom .further import VALUE\n",
        "room/further.py": "VALUE = 1\n",
        "room/other.py": "VALUE = 1\n",
        "room/plugins/__init__.py": "",
        "room/plugins/one.py": "from ..tools import VALUE\n",
    }
    for name, text in files.items():
        path = tmp_path / "own_house" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    module = import_module("own_house.room.plugins.one")
    before = code_sha256(module)
    for name, changes in (("other", False), ("further", True), ("plugins/one", True)):
        path = tmp_path / "own_house" / "room" / f"{name}.py"
        text = path.read_text()
        path.write_text(text + "# changed\n")
        assert (code_sha256(module) != before) == changes
        path.write_text(text)
    assert code_sha256(module) == before
    for name in [name for name in sys.modules if name.startswith("own_house")]:
        del sys.modules[name]
