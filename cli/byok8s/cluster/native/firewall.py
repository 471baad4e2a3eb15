"""Rules of iptables: our few, and the removal of everything that a cluster leaves behind."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from byok8s.cluster.native import nftables
from byok8s.cluster.native.layout import BRIDGE, POD_NETWORK
from byok8s.cluster.native.shell import attempt, run

_COMMANDS = ("iptables", "ip6tables")
_OURS = re.compile(r"(KUBE|CNI|BYOK8S)-")
# Others, Docker above all, set FORWARD to DROP. Pods must be let through, also to the host, and
# take the host's address when they leave it.
_RULES = {
    ("filter", "FORWARD", "BYOK8S-FORWARD"): [f"-i {BRIDGE} -j ACCEPT", f"-o {BRIDGE} -j ACCEPT"],
    ("filter", "INPUT", "BYOK8S-INPUT"): [f"-i {BRIDGE} -j ACCEPT"],
    ("nat", "POSTROUTING", "BYOK8S-POSTROUTING"): [
        f"-s {POD_NETWORK} ! -o {BRIDGE} -j MASQUERADE",
    ],
}


@dataclass
class Table:
    """A table as iptables-save prints it."""

    name: str
    chains: dict[str, str] = field(default_factory=dict)  # with their policies; "-" for users'
    rules: list[str] = field(default_factory=list)

    @property
    def untouched(self) -> bool:
        """Whether it is as iptables makes it."""
        return not self.rules and all(policy == "ACCEPT" for policy in self.chains.values())


def up() -> None:
    """Put our rules first in their chains; fine when they are there."""
    for (table, parent, chain), rules in _RULES.items():
        lines = [f"*{table}", f":{chain} - [0:0]", *(f"-A {chain} {rule}" for rule in rules)]
        run(["iptables-restore", "--noflush"], stdin="\n".join([*lines, "COMMIT", ""]))
        if attempt(["iptables", "-t", table, "-C", parent, "-j", chain]).returncode != 0:
            run(["iptables", "-t", table, "-I", parent, "-j", chain])


def chains() -> list[str]:
    """All chains that there are now, as COMMAND/TABLE/CHAIN."""
    return [
        f"{command}/{table.name}/{chain}"
        for command in _COMMANDS
        for table in _saved(command)
        for chain in table.chains
    ]


def down(before: Collection[str] | None) -> None:
    """Remove the chains of Kubernetes, CNI and ours, and the rules that lead to them.

    What chains() named before the cluster is another's, and stays. Tables that were not there
    before go too, when nobody else uses them; without a knowledge of before they stay.
    """
    for command in _COMMANDS:
        keep = {c.removeprefix(f"{command}/") for c in before or () if c.startswith(f"{command}/")}
        if removal := cleaning(_saved(command), keep):
            run([f"{command}-restore", "--noflush"], stdin=removal)
        for table in _saved(command) if before is not None else ():
            if table.untouched and not any(c.startswith(f"{table.name}/") for c in keep):
                nftables.delete_table(nftables.FAMILIES[command], table.name)


def cleaning(tables: Iterable[Table], keep: Collection[str] = ()) -> str:
    """What iptables-restore must be told to remove a cluster's chains; `keep` as TABLE/CHAIN."""
    lines: list[str] = []
    for table in tables:
        ours = [c for c in table.chains if _OURS.match(c) and f"{table.name}/{c}" not in keep]
        if ours:
            lines += [f"*{table.name}", *(f":{chain} - [0:0]" for chain in ours)]  # empties them
            lines += [f"-D{r.removeprefix('-A')}" for r in table.rules if _leads_to(ours, r)]
            lines += [*(f"-X {chain}" for chain in ours), "COMMIT"]
    return "\n".join([*lines, ""]) if lines else ""


def parse(saved: str) -> Iterator[Table]:
    """The tables in the output of iptables-save."""
    table = Table("")
    for line in saved.splitlines():
        if line.startswith("*"):
            table = Table(line[1:].strip())
        elif line.startswith(":"):
            chain, policy = line[1:].split()[:2]
            table.chains[chain] = policy
        elif line.startswith("-A"):
            table.rules.append(line)
        elif line == "COMMIT":
            yield table


def _saved(command: str) -> list[Table]:
    return list(parse(attempt([f"{command}-save"]).stdout))


def _leads_to(chains: Collection[str], rule: str) -> bool:
    """Whether a rule of another chain jumps to one of these."""
    words = rule.split()
    if words[1] in chains:
        return False
    targets = [words[i + 1] for i, word in enumerate(words[:-1]) if word in ("-j", "-g")]
    return any(target in chains for target in targets)
