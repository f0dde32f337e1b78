"""`model.imports`: modules that are imported before a model is loaded; and what is said without."""

import json
import pickle
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest

import extractkit
from extractkit.core.component import Component
from extractkit.core.trust import Trust
from extractkit.errors import ConfigError, ModelError
from extractkit.models import failures
from extractkit.models.failures import unknown_operation_advice
from extractkit.models.process import import_modules

_LAYERS = """
import keras

@keras.saving.register_keras_serializable("layers_of_mine")
class Tripled(keras.layers.Layer):
    def call(self, x):
        return x * 3.0
"""


@pytest.fixture
def layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a module that registers a class of Keras layers; it is imported nowhere yet."""
    name = "layers_of_mine"
    (tmp_path / f"{name}.py").write_text(_LAYERS, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


def test_a_keras_file_of_registered_classes(
    layers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras

    namespace: dict[str, object] = {"__name__": layers}
    exec(_LAYERS, namespace)
    inputs = keras.Input((2,))
    keras.Model(inputs, namespace["Tripled"]()(inputs)).save(tmp_path / "m.keras")
    registered = keras.saving.get_custom_objects()
    for name in [name for name in registered if name.endswith("Tripled")]:
        del registered[name]
    x = np.array([[1, 2], [3, 4]], np.float32)
    np.save(tmp_path / "x.npy", x)
    given = ["model=keras", f"model.path={tmp_path / 'm.keras'}", "selectors=outputs"]
    given += ["inputs=arrays", f"inputs.path={tmp_path / 'x.npy'}"]
    with pytest.raises(ModelError, match="Tripled"):
        extractkit.extract(given, run_dir=tmp_path / "none")
    given.append(f"model.imports=[{layers}]")
    run = extractkit.extract(given, run_dir=tmp_path / "run")
    (output,) = run.values()
    np.testing.assert_array_equal(np.asarray(output), x * 3)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text("utf-8"))
    assert manifest["settings"]["imports"] == [layers, {}]
    # A run's word is a file's.
    with pytest.raises(ConfigError, match=r"If you trust it: --trust layers_of_mine$"):
        extractkit.rerun(tmp_path / "run", tmp_path / "again")
    again = extractkit.rerun(tmp_path / "run", tmp_path / "again", trust=[layers])
    np.testing.assert_array_equal(np.asarray(next(iter(again.values()))), x * 3)


def test_a_component_takes_its_imports_to_other_processes(layers: str) -> None:
    entry = {"_target_": "extractkit.models.tflite.load", "path": "x", "imports": layers}
    component = Component.parse("model", entry, Trust((layers,)))
    assert pickle.loads(pickle.dumps(component)).imports == (layers,)
    assert list(component.trust_needed()) == [layers]
    assert "imports" not in component.arguments


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"a": 1}, r"model\.imports=\{'a': 1\} is not a list of modules: model\.imports=\["),
        ([1], r"model\.imports=\[1\] is not a list of modules"),
        (["a-b"], r"model\.imports='a-b' is not the dotted path of a module"),
    ],
)
def test_what_names_no_modules_is_refused(given: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Component.parse("model", {"_target_": "extractkit.models.tflite.load", "imports": given})


def test_a_module_that_is_missing_or_fails_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "needs_more.py").write_text("import not_there_at_all", "utf-8")
    (tmp_path / "fails.py").write_text("raise RuntimeError('undefined symbol')", "utf-8")
    with pytest.raises(ConfigError, match=r"model\.imports=not_there is not installed"):
        import_modules(["not_there"])
    with pytest.raises(ConfigError, match=r"needs the module 'not_there_at_all', which is not"):
        import_modules(["needs_more"])
    with pytest.raises(ConfigError, match=r"=fails cannot be imported: RuntimeError: undefined"):
        import_modules(["fails"])


def test_an_unknown_operation_s_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"tensorflow": "2.21.0", "tensorflow-io": "0.37"}

    def version(package: str) -> str:
        if package not in versions:
            raise PackageNotFoundError
        return versions[package]

    monkeypatch.setattr(failures, "version", version)
    for module in ("tensorflow_text", "tensorflow_addons", "tensorflow_io"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    assert unknown_operation_advice("WordpieceTokenizeWithOffsets") == (
        "which tensorflow-text has: python -m pip install 'tensorflow-text==2.21.*', then "
        "model.imports=[tensorflow_text]"
    )
    assert unknown_operation_advice("Addons>CorrelationCost") == (
        "which tensorflow-addons has, but not for TensorFlow 2.21: its last release, 0.23.0, is "
        "for TensorFlow 2.15 and older. Save the model again there without it"
    )
    assert (
        unknown_operation_advice("IO>DecodeAvro")
        == "which tensorflow-io has: model.imports=[tensorflow_io]"
    )
    monkeypatch.setitem(sys.modules, "tensorflow_io", sys)
    assert unknown_operation_advice("IO>DecodeAvro") == (
        "which the installed tensorflow-io 0.37 does not have"
    )
    assert "TF-TRT" in unknown_operation_advice("TRTEngineOp")
    assert "model.imports=[MODULE]" in unknown_operation_advice("MyOwnOp")


def test_every_operation_of_the_installed_library_is_known_to_be_its_own() -> None:
    """The names in the table, against the library itself."""
    from tensorflow.core.framework.op_def_pb2 import OpList
    from tensorflow.python.client.pywrap_tf_session import TF_GetAllOpList, TF_GetBuffer

    def registered() -> set[str]:
        return {op.name for op in OpList.FromString(TF_GetBuffer(TF_GetAllOpList())).op}

    pytest.importorskip("tensorflow_text")
    (library,) = [one for one in failures.LIBRARIES if one.module == "tensorflow_text"]
    own = {name for name in registered() if library.operations.fullmatch(name)}
    assert {"TFText>RoundRobinTrim", "SentencepieceOp", "CaseFoldUTF8"} <= own
    # Every other name of another library is unknown here.
    for other in failures.LIBRARIES:
        if other is not library:
            assert not [name for name in registered() if other.operations.fullmatch(name)]
