import shutil

import pytest

from sak_jax.data.rooms import layouts


@pytest.fixture(scope="session")
def nyud_files(tmp_path_factory):
    """NYUD-v2's layout with 5 + 3 rooms of 48 x 64; read only."""
    root = tmp_path_factory.mktemp("original") / "nyud"
    layouts.write_nyud(root, 5, 3, size=(48, 64))
    return root


@pytest.fixture(scope="session")
def pascal_files(tmp_path_factory):
    """PASCAL-Context's layout with 6 + 3 rooms of 60 x 80; read only."""
    root = tmp_path_factory.mktemp("original") / "pascal_context"
    layouts.write_pascal_context(root, 6, 3, size=(60, 80))
    return root


@pytest.fixture
def nyud_root(nyud_files, tmp_path):
    """A copy to damage."""
    return shutil.copytree(nyud_files, tmp_path / "nyud")


@pytest.fixture
def pascal_root(pascal_files, tmp_path):
    """A copy to damage."""
    return shutil.copytree(pascal_files, tmp_path / "pascal_context")
