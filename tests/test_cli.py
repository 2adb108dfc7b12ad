import errno
import importlib
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

import pctransformer
from pctransformer import cli
from pctransformer.cli import Command
from pctransformer.errors import UserError
from pctransformer.training import resuming


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pctransformer", *arguments], capture_output=True, text=True)


def split(place):
    module, name = place.split(":")
    return importlib.import_module(module), name


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_command_with_an_example(capsys, arguments):
    assert cli.main(arguments) == 0
    text = capsys.readouterr().out
    for name, command in cli.COMMANDS.items():
        assert f"  {name}" in text
        assert command.examples[0] in text


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_explains_itself(name):
    result = run(*name.split(), "--help")
    assert result.returncode == 0
    for example in cli.COMMANDS[name].examples:
        assert example.startswith(f"pctransformer {name}")
        assert example in result.stdout
    assert "{None}" not in result.stdout


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_examples_are_accepted(name, monkeypatch):
    """Every example parses; the command itself does not run."""
    command = cli.COMMANDS[name]
    module, function = split(command.run)
    seen = []
    monkeypatch.setattr(module, function, lambda config: seen.append(config) or 0)
    monkeypatch.setattr(resuming, "kept_settings", lambda kind, path: kind())
    for example in command.examples:
        assert cli.main(example.split()[1:]) == 0
    assert len(seen) == len(command.examples)
    module, options = split(command.config)
    assert all(isinstance(config, getattr(module, options)) for config in seen)


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


# ---- names of one word and of two ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Inner:
    rate: float = 0.1


@dataclass(frozen=True)
class Config:
    inner: Inner = Inner()
    epochs: int = 1


@pytest.fixture
def commands(monkeypatch):
    """Commands `play`, `play chess`, `train one` and `train two`; gives the list of what ran."""
    ran = []
    others = {name: command for name, command in cli.COMMANDS.items() if not name.startswith("train ")}
    monkeypatch.setattr(cli, "COMMANDS", others)  # deleted and put back, they would be in another order
    for name in ("play", "play chess", "train one", "train two"):
        function = f"run_{name.replace(' ', '_')}"
        monkeypatch.setitem(globals(), function, lambda config, name=name: ran.append((name, config)) or 0)
        command = Command(f"{__name__}:Config", f"{__name__}:{function}", f"to {name}", (f"pctransformer {name}",))
        monkeypatch.setitem(cli.COMMANDS, name, command)
    return ran


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["play"], "play"),
        (["play", "--epochs", "3"], "play"),
        (["play", "chess"], "play chess"),
        (["train", "two", "--epochs", "3"], "train two"),
    ],
)
def test_the_longest_name_that_fits_is_run(commands, arguments, name):
    assert cli.main(arguments) == 0
    assert commands == [(name, Config(epochs=3 if "--epochs" in arguments else 1))]


def test_nested_settings_have_flat_flags(commands):
    assert cli.main(["train", "one", "--rate", "0.5"]) == 0
    assert commands == [("train one", Config(inner=Inner(0.5)))]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["train"], "train what? there is `train one`, `train two`"),
        (["train", "--epochs", "3"], "train what? there is `train one`, `train two`"),
        (["train", "twoo"], "no command 'train twoo'; did you mean `pctransformer train two`?"),
        (["train", "xyz"], "no command 'train xyz'; there is `train one`, `train two`"),
        (["trian", "one"], "no command 'trian'; did you mean `pctransformer train one`?"),
        (["trian"], "did you mean `pctransformer train one` or `pctransformer train two`?"),
        (["play", "ches"], "no command 'play ches'; did you mean `pctransformer play chess`?"),
        (["pley"], "did you mean `pctransformer play`?"),
        (["pley", "ches"], "did you mean `pctransformer play chess`?"),
        (["chess"], "did you mean `pctransformer play chess`?"),
        (["ches"], "did you mean `pctransformer play chess`?"),
    ],
)
def test_either_word_may_be_misspelt_or_left_out(commands, capsys, arguments, text):
    assert cli.main(arguments) == 2
    assert text in capsys.readouterr().err
    assert commands == []


@pytest.mark.parametrize("help", ["--help", "-h", "help"])
def test_help_of_a_first_word_lists_its_commands(commands, capsys, help):
    assert cli.main(["train", help]) == 0
    text = capsys.readouterr().out
    assert "  train one  to train one\n" in text
    assert "pctransformer train two" in text
    assert "doctor" not in text


def test_help_of_a_command_names_those_that_begin_alike(commands, capsys):
    with pytest.raises(SystemExit):
        cli.main(["play", "--help"])
    assert "see also: pctransformer play chess" in capsys.readouterr().out


def test_what_runs_is_imported_only_when_it_runs(monkeypatch, capsys):
    """Help and misspelt options need the module of the options alone."""
    command = Command(f"{__name__}:Config", "no_such_module:run", "to fly", ("pctransformer fly",))
    monkeypatch.setitem(cli.COMMANDS, "fly", command)
    with pytest.raises(SystemExit) as stop:
        cli.main(["fly", "--help"])
    assert stop.value.code == 0
    with pytest.raises(SystemExit) as stop:
        cli.main(["fly", "--epoch"])
    assert stop.value.code == 2
    capsys.readouterr()
    assert cli.main(["fly"]) == 2
    assert "no_such_module is not installed" in capsys.readouterr().err


# ---- what goes wrong -------------------------------------------------------------------------------------------------
def test_debug_shows_the_traceback():
    with pytest.raises(UserError, match="doctr"):
        cli.main(["--debug", "doctr"])


def test_a_missing_dependency_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tyro", None)
    assert cli.main(["doctor"]) == 2
    assert "pip install tyro" in capsys.readouterr().err


@pytest.mark.parametrize("argument", ["models", "--help"])
@pytest.mark.parametrize("python", [[], ["-u"]])
def test_a_reader_who_has_gone_is_no_error(argument, python):
    """As in `pctransformer models | head -0`, where Python gathers what it prints and where it does not."""
    command = [sys.executable, *python, "-m", "pctransformer", argument]
    around = {**os.environ, "PYTHONUNBUFFERED": ""}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=around) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_other_broken_pipes_are_errors(monkeypatch, capfd):
    from pctransformer.commands import doctor

    def fail(config):
        raise BrokenPipeError

    monkeypatch.setattr(doctor, "run", fail)
    monkeypatch.setattr(sys, "stdout", sys.__stdout__)
    with pytest.raises(BrokenPipeError):
        cli.main(["doctor"])


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "pctransformer: No space left on device; make room; a train",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "runs"), "pctransformer: runs: Permission denied\n"),
    ],
)
def test_disks_that_are_full_or_forbidden_are_no_bugs(monkeypatch, capsys, error, text):
    from pctransformer.commands import doctor

    def fail(config):
        raise error

    monkeypatch.setattr(doctor, "run", fail)
    assert cli.main(["doctor"]) == 1
    assert text in capsys.readouterr().err
    with pytest.raises(OSError, match=str(error.strerror)):
        cli.main(["--debug", "doctor"])


def test_our_own_errors_keep_their_traceback(monkeypatch):
    from pctransformer.commands import doctor

    def fail(config):
        raise ZeroDivisionError

    monkeypatch.setattr(doctor, "run", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["doctor"])
