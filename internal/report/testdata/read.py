# Reads reports in YAML or XML with Python's own parsers and writes a line of JSON for each.
import json
import sys
import xml.etree.ElementTree as ET

import yaml


def value(e):
    """An element as its JSON has it, but for numbers and truths, which stay texts."""
    if e.get("null") == "true":
        return None
    if len(e):
        names = [c.tag for c in e]
        if set(names) == {"item"}:
            return [value(c) for c in e]
        assert len(set(names)) == len(names), names
        return {c.tag: value(c) for c in e}
    if e.get("escape") == "json":
        return json.loads('"' + e.text + '"')
    return e.text or ""


for path in sys.argv[2:]:
    with open(path, "rb") as f:
        document = f.read()
    if sys.argv[1] == "yaml":
        out = yaml.safe_load(document)
    else:
        out = value(ET.fromstring(document))
    print(json.dumps(out))
