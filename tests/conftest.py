"""Nothing that tests settle is settled for the user."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def _settings_apart(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAPARI_XAI_CONFIG", str(tmp_path_factory.mktemp("settings") / "napari-xai"))
        yield
