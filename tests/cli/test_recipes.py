"""`functaconv recipes`: presets, what they are made of, and the page of all settings."""

import json
import os
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

import functaconv
from functaconv.presets import PRESETS
from functaconv.recipe import sections, validated
from functaconv.settings import all_settings, settings_page
from tests.cli.conftest import Invoke

PAGE = Path(functaconv.__file__).with_name("SETTINGS.md")


def test_all_presets_are_listed_with_what_they_are_for(invoke: Invoke) -> None:
    ran = invoke("recipes")
    assert (ran.code, ran.errors) == (0, "")
    for line, (name, entry) in zip(ran.output.splitlines(), PRESETS.items(), strict=True):
        assert line.split(maxsplit=1) == [name, entry.purpose]
    assert json.loads(invoke("recipes", "--json").output) == {name: entry.purpose for name, entry in PRESETS.items()}


def test_a_preset_is_printed_as_a_recipe_file(invoke: Invoke) -> None:
    for name in PRESETS:
        expected = PRESETS[name].made(PRESETS[name].example)
        written = invoke("recipes", name, "--toml")
        assert written.code == 0
        assert validated(tomllib.loads(written.output)) == expected
        assert json.loads(invoke("recipes", name, "--json").output) == expected.settings()
        shown = dict(line.split(maxsplit=1) for line in invoke("recipes", name).output.splitlines()[2:])
        assert shown["network.width"] == str(expected.network.width)
        assert json.loads(shown["solver.kind"]) == expected.solver.kind


@pytest.mark.parametrize("arguments", [["none-such"], ["--toml"], ["images", "--settings"]])
def test_what_makes_no_sense_is_a_usage_error(arguments: list[str], invoke: Invoke) -> None:
    ran = invoke("recipes", *arguments)
    assert (ran.code, ran.output) == (2, "")
    assert ran.errors.startswith("error: ")


def test_every_setting_has_a_line_with_its_meaning() -> None:
    settings = list(all_settings())
    assert all(setting.meaning and setting.allowed for setting in settings)
    assert len(settings) == sum(len(fields(options)) for _, options in sections())


def test_the_page_of_settings_is_the_one_in_the_package(invoke: Invoke) -> None:
    assert PAGE.read_text(encoding="utf-8") == settings_page(), "functaconv recipes --settings > functaconv/SETTINGS.md"
    assert invoke("recipes", "--settings").output == settings_page()
    assert json.loads(invoke("recipes", "--settings", "--json").output)["training.rate"]["default"] == "0.001"


def test_the_shell_completes_commands_and_options() -> None:
    def completed(words: str) -> list[str]:
        environment = {**os.environ, "_FUNCTACONV_COMPLETE": "complete_bash", "COMP_WORDS": words}
        environment["COMP_CWORD"] = str(len(words.split()) - 1)
        ran = subprocess.run(
            [sys.executable, "-m", "functaconv"], env=environment, capture_output=True, text=True, check=True
        )
        return ran.stdout.split()

    assert completed("functaconv re") == ["render", "report", "recipes"]
    assert "--batch-size" in completed("functaconv encode --b")
