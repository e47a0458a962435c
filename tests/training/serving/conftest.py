"""A server shared by all tests that only send requests."""

import pytest

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from tests.training.serving.shouting import export_shouting, start_server


@pytest.fixture(scope="session")
def model_address(tmp_path_factory):
    """The address of a server with versions 1 and 2; answers of version 2 begin with "2:"."""
    folder = tmp_path_factory.mktemp("saved_models") / "shout"
    folder.mkdir()
    export_shouting(folder, 1)
    export_shouting(folder, 2, prefix="2:")
    (folder / "notes").mkdir()
    server, address = start_server(
        folder,
        "--versions=all",
        "--labels=stable=1,canary=2,gone=7",
        "--max-request-bytes=20000",
        "--max-text-bytes=5000",
        "--max-batch=100",
        "--body-timeout-seconds=2",
        "--allowed-hosts=shout.example.org",
        "--cors-origins=https://page.example.org",
    )
    yield address
    server.terminate()
    assert server.wait(30) == 0
