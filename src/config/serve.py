"""The keys of `serve`: the page of `python inference.py task=serve`."""

from dataclasses import dataclass, field

from .checks import at_least, check, check_fields, one_of, text

LOCAL = "127.0.0.1"


@dataclass
class ServeConfig:
    host: str = field(metadata=text(example=LOCAL, pattern=r"[\w.-]+", form="an IPv4 address or a host name"))
    port: int = field(metadata=at_least(0, most=65_535))
    open_browser: bool
    read_only: bool
    roots: list[str]
    token: str = field(metadata=one_of("auto", "off"))
    max_files: int = field(metadata=at_least(1, most=10_000))
    max_megabytes: int = field(metadata=at_least(1, most=10_000))
    max_pixels: int = field(metadata=at_least(1, most=10**12))

    def __post_init__(self) -> None:
        check_fields("serve", self)
        check(bool(self.roots), "serve.roots=[] allows no folder; write the folders with your images, e.g. [~,/data]")
        check(
            self.token == "auto" or self.read_only,
            "serve.token=off lets everyone who reaches the page use it; that is allowed with serve.read_only=true only",
        )

    @property
    def local(self) -> bool:
        """Whether only this machine reaches the page."""
        return self.host in (LOCAL, "localhost")
