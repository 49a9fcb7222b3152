"""Version policies: which versions of a model an operator wants live. The newest ones, all, or those that are named.

Pure. Above: `lifecycle.choose`, which asks what is wanted; `settings` and `model_config`, which read policies.
"""

import dataclasses
import enum
import re
from collections.abc import Collection

MOST_LATEST = 100
"""The largest N of `latest:N`."""

EXPECTED = (
    "latest, latest:N, all or specific:V,V..., for one model MODEL=POLICY, several separated by ; and none given twice"
)
"""What `parse_policies` reads, in words."""

_MODEL = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_NUMBER = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)
_MAX_VERSION = 2**63 - 1


class PolicyKind(enum.StrEnum):
    """The three policies, named as TensorFlow Serving names them."""

    LATEST = "latest"
    ALL = "all"
    SPECIFIC = "specific"


@dataclasses.dataclass(frozen=True)
class VersionPolicy:
    """Which versions of a model are wanted.

    Args:
        kind: latest, all or specific.
        num_versions: how many of the newest `latest` wants; 0: as many as `--latest-versions` says.
        versions: those that `specific` names.
    """

    kind: PolicyKind = PolicyKind.LATEST
    num_versions: int = 0
    versions: frozenset[int] = frozenset()

    def want(self, usable: Collection[int], live: Collection[int], most: int) -> set[int]:
        """Return the wanted versions, labelled ones left out.

        `latest` and `all` want what is on disk and loads, so that a version that was deleted goes once its successor is
        live. What `specific` names stays while it is live, whatever becomes of its folder.

        Args:
            usable: versions on disk that load as far as is known.
            live: versions that answer now.
            most: no more than so many, the newest of them.
        """
        is_named = self.kind is PolicyKind.SPECIFIC
        candidates = self.versions.intersection({*usable, *live}) if is_named else usable
        return set(sorted(candidates, reverse=True)[: self._limit(most)])

    def may_want(self, version: int, newer: Collection[int], most: int) -> bool:
        """Whether a version may be wanted that is older than every one of `newer`, which are usable."""
        if self.kind is PolicyKind.SPECIFIC:
            return version in self.versions and len(self.versions.intersection(newer)) < most
        return len(newer) < self._limit(most)

    def resolved(self, latest_versions: int) -> "VersionPolicy":
        """Return the policy with a number of versions, where `latest` came without one."""
        if self.kind is not PolicyKind.LATEST or self.num_versions:
            return self
        return dataclasses.replace(self, num_versions=latest_versions)

    def _limit(self, most: int) -> int:
        return min(self.num_versions, most) if self.kind is PolicyKind.LATEST else most

    def __str__(self) -> str:
        """Return the policy as `parse_policy` reads it."""
        if self.kind is PolicyKind.SPECIFIC:
            return f"{self.kind}:{','.join(map(str, sorted(self.versions)))}"
        return f"{self.kind}:{self.num_versions}" if self.num_versions else str(self.kind)


def parse_policy(text: str) -> VersionPolicy:
    """Return the policy that a text names: `latest`, `latest:3`, `all`, `specific:3,4`.

    Raises:
        ValueError: it names none.
    """
    kind, colon, rest = text.strip().partition(":")
    numbers = [part.strip() for part in rest.split(",")] if colon else []
    if not all(_NUMBER.fullmatch(number) and int(number) <= _MAX_VERSION for number in numbers):
        message = f"{text!r} is no version policy"
        raise ValueError(message)
    versions = frozenset(map(int, numbers))
    if kind == PolicyKind.LATEST and len(numbers) <= 1 and max(versions, default=0) <= MOST_LATEST:
        return VersionPolicy(PolicyKind.LATEST, num_versions=max(versions, default=0))
    if kind == PolicyKind.ALL and not colon:
        return VersionPolicy(PolicyKind.ALL)
    if kind == PolicyKind.SPECIFIC and versions:
        return VersionPolicy(PolicyKind.SPECIFIC, versions=versions)
    message = f"{text!r} is no version policy"
    raise ValueError(message)


def parse_policies(text: str) -> tuple[tuple[str, VersionPolicy], ...]:
    """Return (model, policy) for each part of a text such as `latest:2; tumours=specific:3,4`; "" is every other model.

    Raises:
        ValueError: a part is no policy, or a model is given twice.
    """
    policies: dict[str, VersionPolicy] = {}
    for part in filter(None, map(str.strip, text.split(";"))):
        model, equals, policy = part.rpartition("=")
        model = model.strip()
        if model in policies or (equals and _MODEL.fullmatch(model) is None):
            message = f"{part!r}: no model's name, or given twice"
            raise ValueError(message)
        policies[model] = parse_policy(policy)
    return tuple(policies.items())
