"""Programs with modules of Python beside their configuration."""

from tests.support.proxies import Proxy, ProxyFactory


def scripted(factory: ProxyFactory, conf: str, **modules: str) -> Proxy:
    """Start a program whose folder conf/ has these modules, by name without `.py`."""
    running = factory(conf, start=False)
    write(running, **modules)
    return running.start()


def write(running: Proxy, **modules: str) -> None:
    """Write modules, or write them anew."""
    for name, text in modules.items():
        (running.prefix / "conf" / f"{name}.py").write_text(text)
