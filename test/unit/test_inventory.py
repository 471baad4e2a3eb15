"""What the inventory knows, and what it asks for it."""

from __future__ import annotations

import json
import random

import pytest
from byok8s.storage.inventory import Inventory
from support.memory import MemoryBucket


def bucket(*keys: str) -> MemoryBucket:
    return MemoryBucket(**{key: key.encode() for key in keys})


def test_one_list_of_the_prefix_answers_presence_and_absence() -> None:
    store = bucket("run/a", "run/d/x", "run/d/y/z", "run/da", "elsewhere/b")
    inventory = Inventory(store.objects, "run")
    inventory.prepare("run/a")
    assert inventory.find("run/a").size == 5
    assert inventory.find("run/d").names == ("x", "y/z")
    assert (inventory.find("run/d").size, inventory.find("run/d").total) == (0, 16)
    assert inventory.find("run/d/y").names == ("z",)
    assert inventory.find("run/nope") is None and inventory.find("run/d/x/no") is None
    assert inventory.keys_below("run/d/") == ["run/d/x", "run/d/y/z"]
    assert store.calls == {"list": 1}


def test_an_empty_prefix_is_the_whole_bucket() -> None:
    store = bucket("a", "d/x", ".byok8s/runs/1")
    inventory = Inventory(store.objects, "")
    assert inventory.keys_below("") == ["a", "d/x"]
    assert inventory.find("b") is None and store.calls == {"list": 1}


def test_elsewhere_the_folder_of_the_key_is_listed_once() -> None:
    store = bucket("data/x/1", "data/x/2", "data/y/3", "top")
    inventory = Inventory(store.objects)
    for _ in range(3):
        inventory.prepare("data/x/1")
        assert inventory.find("data/x/2") and not inventory.find("data/x/3")
    assert store.calls == {"list": 1}
    inventory.prepare("top")  # a LIST of a foreign bucket's top may be of millions
    assert inventory.find("top") and inventory.find("top")
    assert store.calls == {"list": 1, "head": 1}


def test_without_listings_single_objects_are_looked_up_once() -> None:
    store = bucket("a", "d/x")
    inventory = Inventory(store.objects)
    for _ in range(2):
        assert inventory.find("a").names is None
        assert inventory.find("d").names == ("x",)
        assert inventory.find("no") is None
    assert store.calls == {"head": 3, "list": 2}


def test_what_is_told_is_believed() -> None:
    store = bucket("run/old/1")
    inventory = Inventory(store.objects, "run")
    inventory.prepare("run/x")
    inventory.told_stored("run/new", 7, 12.5, "tag")
    inventory.told_stored("run/dir/a", 1, 1.0)
    inventory.told_stored("run/dir/b", 2, 3.0)
    assert (inventory.find("run/new").size, inventory.find("run/new").mtime) == (7, 12.5)
    folder = inventory.find("run/dir")
    assert (folder.names, folder.mtime, folder.total) == (("a", "b"), 3.0, 3)
    inventory.told_gone("run/old")
    inventory.told_gone("run/dir")
    assert inventory.find("run/old") is None and inventory.find("run/dir/a") is None
    assert inventory.keys_below("run/") == ["run/new"]
    assert store.calls == {"list": 1}


def test_a_doubt_is_looked_up_when_it_matters() -> None:
    store = bucket("run/gone")
    inventory = Inventory(store.objects, "run")
    inventory.prepare("run/x")
    store._store.delete("run/gone")
    store._store.put("run/dir/f", b"1")
    inventory.told_stored("run/gone")
    inventory.told_stored("run/dir")
    assert inventory.keys_below("run/") == ["run/dir/f"]
    assert inventory.find("run/gone") is None and inventory.find("run/dir").names == ("f",)
    assert store.calls == {"list": 3, "head": 2}


def test_an_empty_object_that_stands_for_a_folder_is_one() -> None:
    store = MemoryBucket(**{"run/d": b"", "run/d/x": b"1", "run/flag": b""})
    inventory = Inventory(store.objects, "run")
    assert inventory.find("run/d/x")
    inventory.prepare("run/x")
    assert inventory.find("run/d").names == ("x",) and inventory.find("run/flag").names is None


def test_facts_spare_another_process_every_question() -> None:
    store = bucket("run/a", "run/d/x", "run/d/y")
    inventory = Inventory(store.objects, "run")
    inventory.prepare("run/a")
    facts = json.loads(json.dumps(inventory.facts(["run/a", "run/d", "run/out"])))
    other = bucket()
    pod = Inventory(other.objects)
    pod.learn(facts)
    for key in ("run/a", "run/d", "run/out"):
        assert pod.find(key) == inventory.find(key)
    assert pod.find("run/out/deep") is None and pod.names_below("run/out") == []
    assert not other.calls


@pytest.mark.parametrize("seed", range(5))
def test_as_a_plain_model_of_the_bucket(seed: int) -> None:
    """Random stores and removals: the inventory agrees with a set of keys."""
    chance = random.Random(seed)
    names = [f"run/{a}/{b}" for a in "abc" for b in "xyz"] + [f"run/{n}" for n in "defg"]
    model = set(chance.sample(names, 6))
    inventory = Inventory(bucket(*model).objects, "run")
    for _ in range(200):
        key = chance.choice([*names, "run/a", "run/b", "run/c"])
        below = {name for name in model if name.startswith(f"{key}/")}
        if chance.random() < 0.3 and key in names:
            model.add(key)
            inventory.told_stored(key, 1, 1.0)
        elif chance.random() < 0.3:
            model -= {key, *below}
            inventory.told_gone(key)
        entry = inventory.find(key)
        present = key in model or any(name.startswith(f"{key}/") for name in model)
        assert (entry is not None) == present
        assert inventory.keys_below("run/") == sorted(model)
