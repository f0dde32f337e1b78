"""Which callables a file may name: ours, Keras's models, and what installed packages register."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from extractkit.config import config_directory
from extractkit.config.overrides import trust_of
from extractkit.core.component import Component
from extractkit.core.trust import ENTRY_POINTS, OWN, Trust
from extractkit.errors import ConfigError


def named(value: object) -> Iterator[str]:
    """Every `_target_` in a configuration file."""
    entries = value.values() if isinstance(value, dict) else value
    if isinstance(value, dict) and "_target_" in value:
        yield value["_target_"]
    for entry in entries if isinstance(value, dict | list) else ():
        yield from named(entry)


def refusal(entry: object, trust: Trust | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        Component.parse("model.factory", entry, trust or Trust()).function()
    return str(caught.value)


def test_whatever_our_configuration_files_name_is_ours() -> None:
    files = sorted(config_directory().rglob("*.yaml"))
    found = {target for file in files for target in named(yaml.safe_load(file.read_text("utf-8")))}
    found = {target for target in found if not target.startswith("extractkit.config.")}
    # An experiment's own code is no part of the package, and has to be trusted by name.
    assert all(name.startswith("experiments.") for name in found - OWN)
    assert OWN - found == {"extractkit.testing.reference.ReferenceModel"}


@pytest.mark.parametrize("target", sorted(OWN))
def test_whatever_is_ours_exists(target: str) -> None:
    assert callable(Component.parse("x", {"_target_": target}).function())


def test_what_is_refused_says_where_it_stands_and_what_to_type() -> None:
    assert refusal({"_target_": "pickle.loads"}) == (
        "model.factory._target_='pickle.loads' is refused: a file names it, not the command "
        "line, and it would run code that is neither extractkit's nor Keras's. "
        "If you trust it: --trust pickle"
    )


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "extractkit.api.given",
        "extractkit.inputs.texts.Texts.bind",
        "extractkit.models.keras_file.importlib",
        "kerass.Sequential",
        "system",
        "",
    ],
)
def test_nothing_is_imported_for_what_is_refused(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib, "import_module", lambda name: pytest.fail(name))
    with pytest.raises(ConfigError, match="is refused"):
        Component.parse("model.factory", {"_target_": target})


# -------------------------------------------------------------------------------------- Keras


@pytest.mark.parametrize(
    "target",
    [
        "keras.Sequential",
        "keras.layers.Dense",
        "keras.applications.ResNet50",
        "keras.applications.resnet.ResNet50",
        "keras.models.load_model",
        "keras_hub.models.BertBackbone",
        "tf_keras.layers.Dense",
        "tf_keras.applications.ResNet50",
    ],
)
def test_models_layers_and_loaders_of_keras_may_be_named(target: str) -> None:
    assert callable(Component.parse("model.factory", {"_target_": target}).function())


@pytest.mark.parametrize(
    "target",
    [
        "keras.utils.get_file",
        "keras.src.utils.file_utils.extract_archive",
        "keras.config.enable_unsafe_deserialization",
        "keras.applications.resnet.preprocess_input",
        "tf_keras.models.load_model",
        "keras_hub.upload_preset",
        "keras.Model.from_config",
        "keras_hub.models.Backbone.from_preset",
        "tf_keras.layers.Dense.from_config",
    ],
)
def test_nothing_else_of_keras_may_be_named(target: str) -> None:
    said = refusal({"_target_": target})
    assert said.startswith(f"model.factory._target_={target!r} is refused: a file ")
    assert said.endswith(f"is not a class of layers or models. If you trust it: --trust {target}")
    trust = Trust(modules=(target,))
    assert Component.parse("model.factory", {"_target_": target}, trust).function()


class Model:
    """As of a library whose classes read their own files."""

    weights: object = None
    instance: "Model"

    class Inner:
        @classmethod
        def load(cls) -> str:
            raise AssertionError("reached")

    @classmethod
    def load(cls, path: str) -> tuple[str, str]:
        return cls.__name__, path

    @staticmethod
    def build(path: str) -> str:
        return path

    @classmethod
    def _load(cls) -> str:
        raise AssertionError("reached")

    @property
    def size(self) -> int:
        raise AssertionError("reached")

    def save(self) -> None:
        raise AssertionError("reached")

    def __class_getitem__(cls, item: object) -> object:
        raise AssertionError("reached")


class Derived(Model):
    pass


Model.instance = Model()
MODEL = Model()


def test_a_class_method_is_a_target() -> None:
    typed = Trust(modules=(__name__,))
    for target, given in (
        ("Model.load", ("Model", "x")),
        ("Derived.load", ("Derived", "x")),
        ("Derived.build", "x"),
    ):
        entry = {"_target_": f"{__name__}.{target}", "path": "x"}
        assert Component.parse("model.factory", entry, typed).instantiate() == given
    wrong = {"_target_": f"{__name__}.Model.load", "pth": "x"}
    with pytest.raises(
        ConfigError, match=r"model\.factory\.pth does not exist\. Available: 'path'"
    ):
        Component.parse("model.factory", wrong, typed).check()


def test_a_class_method_of_a_file_is_refused_as_a_function_would_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = f"{__name__}.Model.load"
    for trust in (Trust(), Trust(modules=(f"{__name__}.Model.loads", "os"))):
        with monkeypatch.context() as patch:
            patch.setattr(importlib, "import_module", lambda name: pytest.fail(name))
            said = refusal({"_target_": target}, trust)
        assert said.endswith(f"If you trust it: --trust {__name__}.Model")
    trusted = Trust(modules=(f"{__name__}.Model",))
    assert Component.parse("model.factory", {"_target_": target}, trusted).function()


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("Model.lod", "'lod' is not a class method or static method of Model. Available: "),
        ("Model.size", "'size' is not a class method"),
        ("Model.save", "'save' is not a class method"),
        ("Model._load", "'_load' is not a class method"),
        ("Model.mro", "'mro' is not a class method"),
        ("Model.__subclasses__", "'__subclasses__' is not a class method"),
        ("Model.__class_getitem__", "'__class_getitem__' is not a class method"),
        ("Model.__init_subclass__", "'__init_subclass__' is not a class method"),
        ("Model.__new__", "'__new__' is not a class method"),
        ("Model.Inner", "'Inner' is not a class method"),
        ("Model.instance", "'instance' is not a class method"),
        ("Model.Inner.load", "No module named"),
        ("Model.instance.save", "No module named"),
        ("Model.load.__func__", "No module named"),
        ("MODEL.load", "No module named"),
        ("MODEL.save", "No module named"),
        ("importlib.import_module.__globals__", "No module named"),
    ],
)
def test_nothing_else_behind_a_class_is_a_target(path: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot be imported: ") as caught:
        Component("model.factory", f"{__name__}.{path}").function()
    assert reason in str(caught.value)
    assert ".. " not in str(caught.value)


def test_a_module_that_is_missing_inside_a_module_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lacks_17").mkdir()
    (tmp_path / "lacks_17" / "__init__.py").write_text("Model = object\n")
    (tmp_path / "lacks_17" / "part.py").write_text("import no_such_thing\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="No module named 'no_such_thing'"):
        Component("model.factory", "lacks_17.part.build").function()


def test_a_serialized_object_cannot_name_what_a_target_may_not() -> None:
    inner = {"class_name": "function", "module": "os", "config": "system"}
    entry = {"_target_": "tf_keras.layers.Dense", "units": 1, "activation": {"any": [inner]}}
    assert refusal(entry) == (
        "model.factory.activation.any.0.class_name='function' is refused: a serialized object can "
        "name any code. Name its class instead: model.factory.activation.any.0._target_=…"
    )


@pytest.mark.parametrize("value", [False, None, 0, "no"])
def test_a_loader_stays_in_safe_mode(value: object) -> None:
    entry = {"_target_": "keras.saving.load_model", "filepath": "m.keras", "safe_mode": value}
    assert refusal(entry).startswith("model.factory.safe_mode=")
    typed = trust_of([f"model.factory.safe_mode={'null' if value is None else value}"])
    assert Component.parse("model.factory", entry, typed).arguments["safe_mode"] == value


# ----------------------------------------------------------------------- what packages register


def registering(directory: Path, value: str) -> None:
    """An installed distribution with one entry point."""
    info = directory / "registering_package-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: registering-package\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{ENTRY_POINTS}]\nmine = {value}\n")


def test_what_an_installed_package_registers_may_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "registered_17.py").write_text("def build():\n    return 17\n\nother = build\n")
    registering(tmp_path, "registered_17:build")
    refused = {"_target_": "registered_17.build"}
    refusal(refused)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert Component.parse("model.factory", refused).instantiate() == 17
    refusal({"_target_": "registered_17.other"})


def test_what_lies_in_the_working_directory_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registering(tmp_path, "os:system")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    refusal({"_target_": "os.system"})


# ------------------------------------------------------------------------- what the user trusts


@pytest.mark.parametrize(
    ("module", "target", "trusted"),
    [
        ("mine", "mine.build", True),
        ("mine", "mine.below.build", True),
        ("mine.build", "mine.build", True),
        ("mine", "mines.build", False),
        ("mine.below", "mine.build", False),
    ],
)
def test_a_trusted_module_stands_for_what_is_in_it(module: str, target: str, trusted: bool) -> None:
    assert Trust(modules=(module,)).vouches(target) is trusted


@pytest.mark.parametrize("module", ["", "mine.", ".mine", "mine/below", "mine.py:build"])
def test_a_trusted_module_is_a_dotted_name(module: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Trust(modules=(module,))
    assert str(caught.value) == (
        f"--trust {module!r} does not name a module. Give its dotted path, as in "
        f"--trust package.module"
    )


@pytest.mark.parametrize(
    ("typed", "targets"),
    [
        ("model.factory._target_=mine.build", {"mine.build"}),
        ("+model.factory._target_=mine.build", {"mine.build"}),
        ("++inputs._target_='mine.build'", {"mine.build"}),
        (
            "model.factory={_target_: mine.build, a: [{_target_: other.f}]}",
            {"mine.build", "other.f"},
        ),
        ("model.factory._target_=mine.a,mine.b", {"mine.a", "mine.b"}),
        ("model.factory._target_=choice(mine.a,mine.b)", {"mine.a", "mine.b"}),
        ("model.custom_objects.Mine=mine.Mine", {"mine.Mine"}),
        ("model.custom_objects={Mine: mine.Mine}", {"mine.Mine"}),
        ("model.imports=[mine.layers,other]", {"mine.layers", "other"}),
        ("model.imports=mine", {"mine"}),
        ("model.path=mine.build", set()),
        ("~model.factory._target_=mine.build", set()),
        ("model.factory._target_=glob(*)", set()),
        ("model.factory._target_=${model.name}", {"${model.name}"}),
        ("model.factory._target_=a=b=[", set()),
        ("--config-dir", set()),
    ],
)
def test_what_is_typed_as_a_target_is_trusted(typed: str, targets: set[str]) -> None:
    assert trust_of([typed]).targets == targets


def test_the_working_directory_is_importable_for_what_the_user_named_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "beside_17.py").write_text("def build():\n    return 17\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [entry for entry in sys.path if entry])
    Component.parse("inputs", {"_target_": "extractkit.inputs.random.Random"}).function()
    assert str(tmp_path) not in sys.path
    entry = {"_target_": "beside_17.build"}
    assert Component.parse("inputs", entry, Trust(("beside_17",))).instantiate() == 17
