"""The index of the packaged options: fresh, complete, and not in the way of Hydra."""

from accelerator.cli.app import main
from accelerator.cli.compose.compose import composer, group_options
from accelerator.cli.paths import packaged_configs
from accelerator.cli.project.component_index import FOLDER, index_of, index_texts, packaged_entries
from accelerator.cli.project.project import here
from accelerator.utilities.files import short


def test_the_index_is_fresh():
    expected = index_texts(packaged_configs())
    stored = {path: path.read_text() for path in FOLDER.glob("*.yaml")}
    stale = sorted(path.name for path in expected.keys() | stored.keys() if expected.get(path) != stored.get(path))
    assert stale == [], "make index writes it anew"


def test_every_packaged_option_is_in_it():
    root = packaged_configs()
    files = {file.relative_to(root).with_suffix("").as_posix() for file in root.rglob("*/*.yaml")}
    listed = {f"{entry.group}/{entry.name}" for entry in packaged_entries()}
    assert listed == {file for file in files if "/options/" not in file and not file.startswith("hydra/")}


def test_an_entry_tells_what_an_option_is_and_takes():
    entries = {(entry.group, entry.name): entry for entry in packaged_entries()}
    mlp = entries["model", "mlp"]
    assert mlp.components == {"": "domain.cross.model.mlp:MLP"}
    assert mlp.arguments["hidden"] == (
        "[64, 64]",
        "Sequence[int]",
        "widths of the hidden layers; none gives a linear map",
    )
    assert entries["experiment", "digits"].chooses == ["data=digits", "model=cnn", "multilevel=single"]
    monitoring = entries["callbacks", "monitoring"]
    assert monitoring.components["memory"] == "accelerator.runtime.callbacks.resources:Memory"
    assert monitoring.chooses == ["callbacks=default"]
    assert entries["training_components/optimizer", "torch"].summary == "any class of torch.optim by its own name"


def test_hydra_offers_no_index_as_an_option():
    with composer():
        assert "index" not in group_options("model")


def test_a_projects_own_options_come_first_and_replace_the_packaged(workplace, capsys):
    assert main(["add", "loss", "huber"]) == 0
    assert main(["add", "loss", "mine", "--new"]) == 0
    entries = index_of(here())
    assert len({(entry.group, entry.name) for entry in entries}) == len(entries) == len(packaged_entries()) + 2
    mine = next(entry for entry in entries if entry.name == "mine")
    assert mine.components == {"": "components.loss.mine:mine"}
    assert mine.arguments["weight"] == ("1.0", "float", "w, what the error is multiplied by")


def test_writing_it_says_what_changed(capsys):
    assert main(["add", "--index", "--dry-run"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"{len(list(FOLDER.glob('*.yaml')))} groups are indexed in {short(FOLDER)}"
