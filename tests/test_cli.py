import importlib
import subprocess
import sys

import pytest

import pctransformer
from pctransformer import cli
from pctransformer.errors import UserError


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pctransformer", *arguments], capture_output=True, text=True)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_command_with_an_example(capsys, arguments):
    assert cli.main(arguments) == 0
    text = capsys.readouterr().out
    for name, command in cli.COMMANDS.items():
        assert f"  {name}" in text
        assert command.examples[0] in text


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_explains_itself(name):
    result = run(name, "--help")
    assert result.returncode == 0
    for example in cli.COMMANDS[name].examples:
        assert example.startswith(f"pctransformer {name}")
        assert example in result.stdout


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_examples_are_accepted(name, monkeypatch):
    """Every example parses; the command itself does not run."""
    module = importlib.import_module(cli.COMMANDS[name].module)
    seen = []
    monkeypatch.setattr(module, "run", lambda config: seen.append(config) or 0)
    for example in cli.COMMANDS[name].examples:
        assert cli.main(example.split()[1:]) == 0
    assert all(isinstance(config, module.Config) for config in seen)
    assert len(seen) == len(cli.COMMANDS[name].examples)


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"pctransformer {pctransformer.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["doctr"], "did you mean `pctransformer doctor`?"),
        (["fly"], "there are: "),
        (["--verison"], "no option '--verison'"),
        (["doctor", "--jsn"], "--json"),
    ],
)
def test_faults_of_the_user_are_explained_with_exit_code_2(arguments, text):
    result = run(*arguments)
    assert result.returncode == 2
    assert text in result.stderr
    assert "Traceback" not in result.stderr


def test_debug_shows_the_traceback():
    with pytest.raises(UserError, match="doctr"):
        cli.main(["--debug", "doctr"])


def test_a_missing_dependency_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tyro", None)
    monkeypatch.delitem(sys.modules, "pctransformer.doctor", raising=False)
    assert cli.main(["doctor"]) == 2
    assert "pip install tyro" in capsys.readouterr().err


def test_our_own_errors_keep_their_traceback(monkeypatch):
    from pctransformer import doctor

    def fail(config):
        raise ZeroDivisionError

    monkeypatch.setattr(doctor, "run", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["doctor"])
