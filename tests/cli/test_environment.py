"""What `zephyr env` prints."""

import torch

from zephyr import __version__
from zephyr.cli.environment import installed_version, list_devices, print_environment


def test_environment_names_versions_and_devices(capsys):
    print_environment()
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["zephyr"] == __version__
    assert rows["torch"] == torch.__version__
    assert int(rows["cores"]) >= 1
    assert rows["memory"].endswith("GiB free")
    assert "device" in rows
    assert rows["matmul"].endswith("take float32 on it") or rows["matmul"].endswith("take bfloat16 on it")


def test_accelerators_are_named(monkeypatch):
    class Backend:
        @staticmethod
        def get_device_name(index: int) -> str:
            return f"Card {index}"

    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "get_device_module", lambda device: Backend)
    assert list_devices()[1:] == ["cuda:0, Card 0", "cuda:1, Card 1"]


def test_missing_package_is_said():
    assert installed_version("no-such-package-anywhere") == "not installed"
