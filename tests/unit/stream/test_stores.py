"""Stores of a configuration, and a worker's connections to them."""

from ngxstream.stream import stores
from tests.support import fake_store
from tests.support.backends import BackendFactory
from tests.support.engine import engine, run_until
from tests.support.in_process import build


def test_a_url_is_one_store(backends: BackendFactory) -> None:
    """For all zones that name it; a worker has one connection to it, which is counted."""
    port = backends.tcp(fake_store.speaking(fake_store.usual)).address[1]
    url = f"redis://127.0.0.1:{port}"
    built = build(f"""stream {{
        keyval_zone zone=a:64k store={url}; keyval_zone zone=b:64k store={url};
        keyval_zone zone=c:64k store={url}/1;
        server {{ listen 127.0.0.1:9; return 1; }} }}""")
    assert built.conf is not None, built.error
    first, second = built.conf.data[stores.NAME].values()
    assert [url, f"{url}/1"] == [first.url, second.url]
    with engine() as loop:
        loop.log = fake_store.remembering()
        store = stores.connect(loop, first)
        assert store is stores.connect(loop, first)
        assert store is not stores.connect(loop, second)
        loop.cells = dict.fromkeys(range(9), 0)  # type: ignore[assignment]
        run_until(loop, lambda: store.is_up)
        assert 1 <= loop.cells[first.up.at]
        stores.close(loop, [first, second])
        assert 0 == loop.cells[first.up.at]
        assert not store.is_up
        loop.turn(0)


def test_a_former_configuration_ends_no_connection_of_the_next(backends: BackendFactory) -> None:
    """One process may have several at a time; the last that uses a connection ends it."""
    url = f"redis://127.0.0.1:{backends.tcp(fake_store.speaking(fake_store.usual)).address[1]}"
    text = f"""stream {{ keyval_zone zone=a:64k store={url};
        server {{ listen 127.0.0.1:9; return 1; }} }}"""
    confs = [build(text), build(text)]
    first, second = (next(iter(one.conf.data[stores.NAME].values())) for one in confs if one.conf)
    with engine() as loop:
        loop.log = fake_store.remembering()
        store = stores.connect(loop, first)
        assert store is stores.connect(loop, second)
        run_until(loop, lambda: store.is_up)
        stores.close(loop, [first])
        stores.close(loop, [first])
        assert store.is_up
        stores.close(loop, [second])
        assert not store.is_up
        loop.turn(0)
