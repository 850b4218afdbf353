"""Options as they are given, what is wrong with them, and all that follows from their one table."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from typing import Any

import numpy as np
import pytest
from option_tables import PAGE, written

import slidewright
from slidewright.conversions import signatures
from slidewright.errors import OptionError
from slidewright.option import GROUPS, Option
from slidewright.options import (
    DEFAULTS,
    OPTIONS,
    SELECTION,
    ConvertOptions,
    make_options,
    parse_bytes,
    taken_by,
)
from slidewright.selection import Selection

TAKERS: dict[str, tuple[Any, type]] = {
    "convert": (slidewright.convert, signatures.AllOptions),
    "batch": (slidewright.batch, signatures.AllOptions),
    "shard": (slidewright.shard, signatures.ShardOptions),
    "assemble": (slidewright.assemble, signatures.AssembleOptions),
    "restore": (slidewright.restore, signatures.RestoreOptions),
    "PyramidWriter": (slidewright.PyramidWriter, signatures.WriterOptions),
}
EXAMPLES: dict[str, Any] = {
    "page": 1,
    "series": 2,
    "level": 3,
    "z": "all",
    "t": "2:5",
    "axes": "tzcyx",
    "region": (6, 7, 80, 90),
    "tile_size": 256,
    "keep_tiles": "never",
    "reuse_levels": True,
    "scaled_decoding": True,
    "compression": "zstd",
    "quality": 80,
    "effort": 9,
    "subsampling": "444",
    "predictor": False,
    "kind": "labels",
    "colormap": {0: "white", 3: "#ff0000"},
    "alpha": "compose",
    "background": "#102030",
    "bits": 8,
    "levels": 4,
    "resampling": "max",
    "mpp": (0.25, 0.5),
    "description": "two words",
    "objective_power": 20.0,
    "z_spacing": 1.5,
    "time_increment": 0.25,
    "channel_names": ("DAPI", "CD3"),
    "channel_colors": ("blue", "#00ff00"),
    "keep_metadata": "all",
    "associated": ("thumbnail", "macro"),
    "label": "label.png",
    "format": "tiff",
    "archive": "jpegxl",
    "flavour": "aperio",
    "strict": True,
    "bigtiff": False,
    "overwrite": True,
    "verify": True,
    "zarr_shard": 4,
    "ngff": "0.4",
    "n_workers": 3,
    "memory": "4GB",
    "block_tiles": 4,
    "scratch": "/tmp",
    "timeout": 2.5,
    "on_corrupt": "fill",
    "resume": True,
    "dask": "tcp://host:8786",
}
"""A value of each option that has a flag."""


@pytest.mark.parametrize(
    ("text", "value"), [("4GB", 4e9), ("512MiB", 512 << 20), ("1.5 g", 1.5e9), ("100", 100), (7, 7)]
)
def test_memory_sizes_are_understood(text, value):
    assert parse_bytes(text) == value


@pytest.mark.parametrize("text", ["", "4 parsecs", "-1GB", "0"])
def test_senseless_memory_sizes_are_refused(text):
    with pytest.raises(OptionError, match="memory"):
        parse_bytes(text)


def test_every_field_says_all_about_its_option():
    names = [field.name for field in (*dataclasses.fields(Selection), *dataclasses.fields(ConvertOptions))]
    table = {**SELECTION, **OPTIONS}
    assert list(table) == names
    for name, option in table.items():
        assert isinstance(option, Option)
        assert option.help.endswith("."), name
        assert option.group in GROUPS, name
        assert option.takers <= {*TAKERS, "verify"}, name
        assert option.default or option.given is not None or DEFAULTS.get(name) is not None or option.more, name
    flags = [flag for option in table.values() for flag in option.flags]
    assert len(flags) == len(set(flags))


def test_every_option_but_one_has_a_flag_and_an_example_here():
    with_flag = {name for name, option in {**SELECTION, **OPTIONS}.items() if option.flags}
    assert with_flag == EXAMPLES.keys()
    assert OPTIONS.keys() - with_flag == {"engine"}


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_a_command_says_is_read_back_as_the_same_value(name):
    option, value = {**SELECTION, **OPTIONS}[name], EXAMPLES[name]
    flag, *text = option.arguments(value)
    assert flag in option.flags
    if text:
        assert option.parse(text[0]) == value
    else:
        assert isinstance(value, bool)


@pytest.mark.parametrize(
    ("name", "text"),
    [("quality", "x"), ("mpp", "0.25,"), ("mpp", "1,2,3"), ("timeout", "soon"), ("verify", "maybe"), ("kind", "grebt")],
)
def test_a_parser_refuses_text_and_begins_its_message_with_it(name, text):
    with pytest.raises(OptionError, match=f"^'{text}' "):
        OPTIONS[name].parse(text)


@pytest.mark.parametrize("taker", TAKERS)
def test_help_and_type_checkers_see_the_options_of_the_table(taker):
    function, typed = TAKERS[taker]
    hints = typing.get_type_hints(ConvertOptions) | typing.get_type_hints(Selection)
    chosen = {name: option for name, option in SELECTION.items() if taker in option.takers}
    declared_fields = {**ConvertOptions.__dataclass_fields__, **Selection.__dataclass_fields__}
    taken = {**taken_by(taker), **chosen}
    assert typing.get_type_hints(typed) == {name: hints[name] for name in taken}
    parameters = inspect.signature(function).parameters
    assert not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for name, option in taken.items():
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        default = declared_fields[name].default
        assert parameters[name].default == default
        assert parameters[name].annotation == str(declared_fields[name].type)
        words = " ".join(function.__doc__.split())
        assert f"{name} : {parameters[name].annotation}, default {default!r} {option.text}" in words
    assert parameters.keys() & OPTIONS.keys() == taken_by(taker).keys()
    declared = inspect.unwrap(function.__init__ if inspect.isclass(function) else function).__annotations__["options"]
    assert declared == f"Unpack[{typed.__name__}]"
    if taker != "PyramidWriter":  # which has z and t of its own
        assert parameters.keys() & SELECTION.keys() == chosen.keys()


def test_tables_in_the_documentation_are_those_of_the_code():
    page = PAGE.read_text()
    assert page == written(page), "run PYTHONPATH=tests python tests/option_tables.py"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"qualty": 80}, "did you mean 'quality'"),
        ({"tilesize": 80}, "did you mean 'tile_size'"),
        ({"levle": 1}, "did you mean 'level'"),
        ({"workers": 4}, "is the command line's --workers; here it is n_workers"),
        ({"classic": True}, "is the command line's --classic; here it is bigtiff"),
        ({"kind": "lables"}, "did you mean 'labels'"),
        ({"resampling": "avarage"}, "choose one of mean, median"),
    ],
)
def test_a_mistyped_option_is_told_what_may_have_been_meant(given, message):
    with pytest.raises(OptionError, match=message):
        make_options(given)


def test_a_verb_refuses_the_options_of_others(tmp_path):
    with pytest.raises(OptionError, match="'resume' is not for shard, which takes tile_size, "):
        slidewright.shard("a.tif", tmp_path / "shards", index=0, count=1, resume=True)


def test_mistyped_compression_is_told_what_may_have_been_meant(tmp_path):
    with pytest.raises(OptionError, match="did you mean 'jpeg2000'"):
        slidewright.convert(np.zeros((64, 64), np.uint8), tmp_path / "a.tif", n_workers=0, compression="jpg2000")


def test_selection_is_what_was_given():
    assert Selection(page=0, level=2).given == {"page": 0, "level": 2}
    assert Selection(**Selection(series=1).given) == Selection(series=1)


@pytest.mark.parametrize(
    ("name", "value"), [("description", "caf\udce9"), ("description", 0), ("channel_names", ["DAPI", "\ud83d"])]
)
def test_text_that_no_file_can_hold_is_refused_at_the_door(tmp_path, name, value):
    with pytest.raises(OptionError, match=f"{name} .*UTF-8"):
        ConvertOptions(**{name: value})
    with pytest.raises(OptionError, match=f"{name} .*UTF-8"):
        slidewright.shard(np.zeros((8, 8)), tmp_path / "shards", index=0, count=1, **{name: value})
    assert not list(tmp_path.iterdir())
