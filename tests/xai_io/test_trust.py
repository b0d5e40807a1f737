import json

import pytest
import torch

from xai_io import ModelError, UntrustedModel, forget, load_model, model_hash, needs_trust, remember, trusted

HASH = "0123456789abcdef" * 4
NET = "import torch\nclass Net(torch.nn.Conv3d):\n    def __init__(self): super().__init__(1, 2, 1)\n"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_XAI_CONFIG", str(tmp_path / "config"))
    return tmp_path / "config"


@pytest.fixture
def coded(tmp_path, bundle):
    """A bundle whose network is its own code."""
    path = bundle(
        tmp_path / "secret_name",
        network_def={"_target_": "scripts.net.Net"},
        preprocessing=[{"_target_": "Lambdad", "keys": "image", "func": "$lambda x: x + 1"}],
        inferer={"_target_": "SlidingWindowInferer", "roi_size": "$[2 ** 3] * 3", "overlap": "$max(0, 0.5)"},
        weights=torch.nn.Conv3d(1, 2, 1).state_dict(),
    )
    (path / "scripts").mkdir()
    (path / "scripts/__init__.py").touch()
    (path / "scripts/net.py").write_text(NET)
    return path


def test_what_is_remembered_and_forgotten(folder):
    assert not trusted(HASH) and not folder.exists()
    remember(HASH)
    remember(HASH[::-1])
    assert trusted(HASH) and trusted(HASH[::-1]) and not trusted(HASH.upper())
    forget(HASH)
    forget(HASH)
    assert not trusted(HASH) and trusted(HASH[::-1])
    for wrong in ("", "x" * 64, HASH + "0", "/etc/passwd"):
        with pytest.raises(ModelError, match="no hash of a model"):
            remember(wrong)


def test_a_damaged_list_trusts_nothing_and_is_not_overwritten(folder):
    folder.mkdir()
    file = folder / "trusted_models.json"
    for content in ("{", "[]", '{"sha256": 3}', '{"sha256": ["*"]}', f'{{"sha256": "{HASH}"}}', "[" * 10**5):
        file.write_text(content)
        assert not trusted(HASH)
        with pytest.raises(ModelError, match="delete it"):
            remember(HASH)
        assert file.read_text() == content


def test_trust_once_is_not_remembered_and_remembered_trust_needs_none(coded, folder):
    with pytest.raises(UntrustedModel, match="network_def"):
        load_model(coded)
    with pytest.raises(ModelError, match="trust is 'no'"):
        load_model(coded, trust="no")
    once = load_model(coded, trust=True)
    assert once.ran[0] == "network_def" and not folder.exists()
    with pytest.raises(UntrustedModel):
        load_model(coded)
    kept = load_model(coded, trust="remember")
    assert kept.hash == once.hash == model_hash(coded) and trusted(kept.hash)
    again = load_model(coded)
    assert type(again.network).__name__ == "Net" and again.ran == once.ran
    forget(kept.hash)
    with pytest.raises(UntrustedModel):
        load_model(coded)


def test_only_hashes_are_kept(coded, folder):
    load_model(coded, trust="remember")
    (file,) = folder.iterdir()
    assert json.loads(file.read_text()) == {"sha256": [model_hash(coded)]}
    assert "secret_name" not in file.read_text()


@pytest.mark.parametrize(
    "file",
    [
        "configs/inference.json",
        "configs/metadata.json",
        "scripts/net.py",
        "scripts/more.py",
        "scripts/__pycache__/net.cpython-311.pyc",
        "elsewhere/lib.so",
        "models/model.pt",
        "models/other.pt",
        "behind_a_link/net.py",
    ],
)
def test_a_model_that_changed_is_asked_about_again(coded, file, tmp_path):
    (tmp_path / "outside").mkdir()
    (coded / "behind_a_link").symlink_to(tmp_path / "outside", target_is_directory=True)
    load_model(coded, trust="remember")
    load_model(coded)  # running it has changed nothing
    (coded / file).parent.mkdir(exist_ok=True)
    with (coded / file).open("ab") as stream:
        stream.write(b"\n")
    with pytest.raises((UntrustedModel, ModelError)):
        load_model(coded)
    assert not trusted(model_hash(coded))


def test_every_entry_that_needs_trust_is_named(coded, bundle, tmp_path):
    assert needs_trust(coded) == {
        "network_def": "scripts.net.Net",
        "preprocessing::0": "Lambdad",
        "preprocessing::0::func": "$lambda x: x + 1",
        "inferer::roi_size": "$[2 ** 3] * 3",
        "inferer::overlap": "$max(0, 0.5)",
    }
    assert set(load_model(coded, trust=True).ran) <= set(needs_trust(coded))
    assert needs_trust(bundle(tmp_path / "data")) == {}
    nested = {"_target_": "UNet", "spatial_dims": 3, "in_channels": "@a", "channels": ["$sum([1])", "@b::c"]}
    path = bundle(tmp_path / "n", network_def=nested, a="@d", d="$os.getpid()", b={"c": "$input()"})
    assert needs_trust(path) == {"d": "$os.getpid()", "network_def::channels::0": "$sum([1])", "b::c": "$input()"}


def test_a_pickle_and_a_script_are_entries_too(tmp_path, bundle):
    path = bundle(tmp_path / "b", weights={"state_dict": torch.nn.Conv3d(1, 2, 1).state_dict(), "by": Exception})
    assert needs_trust(path) == {"model.pt": "a pickle of more than weights"}

    class Saves(torch.nn.Module):
        def forward(self, x):
            torch.save(x, "x")
            return x

    torch.jit.script(Saves()).save(tmp_path / "s.ts")
    assert list(needs_trust(tmp_path / "s.ts")) == ["s.ts"]
    assert load_model(tmp_path / "s.ts", trust=True).ran == ("s.ts",)


def test_beside_a_single_file_nothing_is_imported(tmp_path):
    """Its hash covers the file alone, and so does trust."""
    torch.save(torch.nn.Conv3d(1, 2, 1).state_dict(), tmp_path / "w.pt")
    (tmp_path / "nets_beside.py").write_text(NET + f"open({str(tmp_path / 'mark')!r}, 'w')")
    (tmp_path / "network.json").write_text('{"network_def": {"_target_": "nets_beside.Net"}}')
    with pytest.raises(ModelError, match="network_def"):
        load_model(tmp_path / "w.pt", trust=True)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("name", ["models/stats.ckpt", "docs/words.txt", "data", "scripts/tool.PY"])
def test_any_file_that_changes_is_asked_about_again(coded, name):
    (coded / name).parent.mkdir(exist_ok=True)
    (coded / name).write_bytes(b"as it was")
    load_model(coded, trust="remember")
    load_model(coded)
    (coded / name).write_bytes(b"something else")
    with pytest.raises(UntrustedModel):
        load_model(coded)
