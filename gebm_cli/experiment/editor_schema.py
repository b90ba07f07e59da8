"""The schema of an experiment file for editors: JSON schema (draft 7) of what may be written, made from the pydantic models.

It checks names, words, types and ranges. What hangs on several keys, or is required below a section that a file may take from the
one it extends, is left to `gebm validate`. Imports no torch.
"""

from __future__ import annotations

import json
from typing import Any

from gebm_cli.experiment.schema import Experiment

Node = dict[str, Any]

EXTENDS = "An experiment file beside this one, over whose keys those of this file are laid."
# Forms that a validator accepts besides the declared type.
SHORT_FORMS: dict[tuple[str, str], Node] = {
    ("Flow", "bandwidth"): {"const": "median"},
    ("Sample", "step_size"): {"type": "null"},
    ("ExternalBase", "latent_shape"): {"type": ["array", "integer"]},
}
_OF_SECTIONS = ("data", "base", "energy")  # which say their kind, unless they take it from the file below


def editor_schema() -> Node:
    """The whole schema, for a file that stands alone or extends another."""
    whole = Experiment.model_json_schema()
    definitions = {name: _section(name, node, whole["$defs"]) for name, node in whole["$defs"].items()}
    for name in (node["$ref"].rpartition("/")[2] for node in whole["properties"].values() if "$ref" in node):
        definitions[name]["type"] = ["object", "null"]  # left empty it means its defaults
    top = _section("Experiment", whole, whole["$defs"])
    alone = {"required": ["data"], "properties": {key: {"required": ["kind"]} for key in _OF_SECTIONS}}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "An experiment of gebm",
        **top,
        "properties": {"extends": {"type": "string", "description": EXTENDS}, **top["properties"]},
        "required": ["name"],
        "if": {"required": ["extends"]},
        "else": alone,
        "$defs": definitions,
    }


def _section(name: str, node: Node, definitions: dict[str, Node]) -> Node:
    """A section whose keys may all be left out, as they are in a file that extends another."""
    keys = {key: _key(inner, definitions) for key, inner in node["properties"].items()}
    for (section, key), form in SHORT_FORMS.items():
        if section == name:
            keys[key] = {"anyOf": [form, keys[key]]}
    told = {"description": node["description"]} if "description" in node else {}
    return {"type": "object", **told, "properties": keys, "additionalProperties": False}


def _key(node: Node, definitions: dict[str, Node]) -> Node:
    """What may be written for a key, in the words of draft 7."""
    node = {word: value for word, value in node.items() if word != "title"}
    if "discriminator" in node:
        return _union(node, definitions)
    if "$ref" in node and len(node) > 1:  # draft 7 reads nothing beside a $ref
        node["allOf"] = [{"$ref": node.pop("$ref")}]
    if "prefixItems" in node:
        node["items"] = node.pop("prefixItems")
    for word in ("anyOf", "items"):
        if isinstance(node.get(word), list):
            node[word] = [_key(inner, definitions) for inner in node[word]]
        elif word in node:
            node[word] = _key(node[word], definitions)
    return _text(node)


def _text(node: Node) -> Node:
    """Text may look like a number: `size: 32` is the word "32" in the schema, and a name or a path may be 2024."""
    if "enum" in node:
        numbers = [int(word) for word in node["enum"] if isinstance(word, str) and word.isdecimal()]
        return {**{k: v for k, v in node.items() if k != "type"}, "enum": [*node["enum"], *numbers]}
    return node | {"type": ["string", "number"]} if node.get("type") == "string" and "const" not in node else node


def _union(node: Node, definitions: dict[str, Node]) -> Node:
    """Sections told apart by `kind`: of the kind that is named, else a key of any. An objective may be its word alone."""
    kinds = node["discriminator"]["mapping"]
    rules = [
        {"if": {"required": ["kind"], "properties": {"kind": {"const": kind}}}, "then": {"$ref": ref}}
        for kind, ref in kinds.items()
    ]
    rules.append({"if": {"not": {"required": ["kind"]}}, "then": _any_of(list(kinds.values()), definitions)})
    section = {"type": "object", "properties": {"kind": {"enum": list(kinds)}}, "allOf": rules}
    if "kale" in kinds:
        section = {"if": {"type": "string"}, "then": {"enum": list(kinds)}, "else": section}
    return ({"description": node["description"]} if "description" in node else {}) | section


def _any_of(refs: list[str], definitions: dict[str, Node]) -> Node:
    """A section without its kind: each key as some kind has it."""
    forms: dict[str, dict[str, Node]] = {}
    for name in (ref.rpartition("/")[2] for ref in refs):
        for key, node in _section(name, definitions[name], definitions)["properties"].items():
            forms.setdefault(key, {})[json.dumps(node)] = node
    keys = {key: {"anyOf": list(nodes.values())} for key, nodes in forms.items() if key != "kind"}
    return {"properties": keys, "additionalProperties": False}
