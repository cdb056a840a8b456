"""What people type, and the kubeconfigs they have: one line when it can't work, never a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from serviceidentity.cli import main as command_line


def config(server: str = "https://127.0.0.1:1", context: str = "here", **user: object) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": context,
            "contexts": [{"name": context, "context": {"cluster": "c", "user": "u", "namespace": f"ns-{context}"}}],
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": user or {"token": "t"}}],
        }
    )


def said(*arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        command_line.main(arguments)
    text = str(end.value)
    assert len(text.splitlines()) == 1
    return text


@pytest.mark.parametrize("text", ["", "x", "a: [", "contexts: 3", config(**{"client-certificate-data": "!"})])
def test_a_kubeconfig_that_is_none_is_said_in_one_line(tmp_path: Path, text: str):
    file = tmp_path / "config"
    file.write_text(text)
    assert "no usable kubeconfig" in said("--kubeconfig", str(file), "status")


def test_a_context_that_is_not_there_is_named(tmp_path: Path):
    file = tmp_path / "config"
    file.write_text(config())
    assert "context nowhere" in said("--kubeconfig", str(file), "--context", "nowhere", "status")
    assert "does not answer" in said("--kubeconfig", str(file), "--context", "here", "status")


def test_several_kubeconfigs_are_looked_through_as_kubectl_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("one", "two"):
        (tmp_path / name).write_text(config(context=name))
    paths = ":".join(str(tmp_path / name) for name in ("none", "one", "two"))
    monkeypatch.setenv("KUBECONFIG", paths)
    files = command_line.kubeconfig(None)
    assert command_line.commands.context_of(files, None) == ("one", "ns-one")
    assert command_line.commands.context_of(files, "two") == ("two", "ns-two")
    assert "does not answer" in said("--context", "two", "status")


@pytest.mark.parametrize(
    "words",
    ["-n shop {}", "{} -n shop", "{} --namespace=shop --context here"],
)
@pytest.mark.parametrize("command", ["status", "rotate a", "revoke a", "ca status default", "ca taint default a"])
def test_the_namespace_may_stand_before_or_after_the_command(words: str, command: str):
    given = command_line.parser().parse_args(words.format(command).split())
    assert (given.namespace, given.context) == ("shop", "here" if "here" in words else None)


@pytest.mark.parametrize(
    "arguments",
    [("status", "-A", "a"), ("status", ""), ("rotate", "a/b"), ("ca", "status", ".."), ("-n", ".", "status")],
)
def test_what_names_nothing_is_refused_before_anyone_is_asked(arguments, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        command_line.main(arguments)
    assert end.value.code == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("encrypt shop/a", "required: KEY"),
        ("encrypt Shop/a KEY", "not the name of an object"),
        ("encrypt shop/a ..KEY", "can't be a key of a Secret"),
        ("encrypt shop/a KEY --public-key x --master-key-file y", "not allowed with"),
        ("encryption-key delete", "invalid choice"),
        ("rekey", "required: FILE"),
    ],
)
def test_nonsense_about_encrypted_values_ends_with_usage(words: str, message: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        command_line.main(words.split())
    assert message in capsys.readouterr().err


def test_files_that_are_not_there_are_named():
    assert "/nowhere: No such file" in said("rekey", "/nowhere", "--keys", "/nowhere")


def test_a_reader_that_has_seen_enough_is_no_error():
    run = (
        "import serviceidentity.cli.main as command\n"
        "command.asyncio.run = lambda asked: asked.close() or 'a long table' * 100_000\n"
        "command.main(['status'])"
    )
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", run], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert done.stderr == ""
