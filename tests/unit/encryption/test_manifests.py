"""`kubectl sid rekey` on manifests as people write them: the values change, nothing else does."""

import os
from pathlib import Path

import pytest
import yaml

from serviceidentity.cli import encryption
from serviceidentity.cli.commands import UsageError
from serviceidentity.cli.manifests import ManifestError, places
from serviceidentity.domain.encryption import ring as rings
from serviceidentity.domain.encryption import values
from serviceidentity.domain.encryption.ring import EMPTY
from serviceidentity.domain.encryption.values import Asymmetric, Scope
from serviceidentity.domain.material import KeyMaterial
from tests.unit.domain.builders import DAY, T0

OLD = EMPTY.with_new(T0)
RING = OLD.with_new(T0 + DAY)
MASTERS = (KeyMaterial(bytes(range(32))), KeyMaterial(bytes(range(1, 33))))
PLAIN = b"sk_live_\xff\n"


def sealed(key: str, name: str = "order-service", namespace: str = "shop", ring=OLD) -> str:
    pair = ring.newest
    return values.encrypt(KeyMaterial(PLAIN), pair.private_key.public_key(), pair.id, Scope(namespace, name, key))


MANIFEST = """\
# the shop's order service
apiVersion: serviceidentity.dev/v1alpha1   # ours
kind: ServiceIdentity
metadata: {name: order-service, namespace: shop}
spec:
  hmac:   {  }
  encrypted:
    values:
      PLAIN: %s   # from the payment provider
      "SINGLE": '%s'
      DOUBLE:   "%s"
      BLOCK: |-
        %s
      FOLDED: >-
        %s

      # a comment after a block
      TAGGED: !!str &x %s
      FLOW: %s
---
apiVersion: v1
kind: ConfigMap
metadata: {name: other}
data: {note: "ENC: is no value here", tagged: !Sub "x"}
---
kind: List
apiVersion: v1
items:
- {apiVersion: serviceidentity.dev/v1alpha1, kind: ServiceIdentity, metadata: {name: b}, spec: {encrypted: {values: {K: %s, L: '%s'}}}}
"""
KEYS = ("PLAIN", "SINGLE", "DOUBLE", "BLOCK", "FOLDED", "TAGGED", "FLOW")


def texts(ring=OLD) -> tuple[str, ...]:
    return (*(sealed(key, ring=ring) for key in KEYS), sealed("K", "b", "team"), sealed("L", "b", "team"))


def written(tmp_path: Path, source: str, newline: str = "\n") -> Path:
    path = tmp_path / "manifest.yaml"
    path.write_bytes(source.replace("\n", newline).encode())
    return path


def rekeyed(path: Path, *, masters=(), convert=False, namespace="team"):
    return encryption.rekey([path], RING, masters, namespace, convert=convert)


def opened(source: str, namespace: str = "team") -> dict[str, bytes]:
    found = {}
    for place in places(source, namespace):
        value = values.parse(place.text)
        assert isinstance(value, Asymmetric)
        assert value.key_id == RING.newest.id
        found[place.scope.key] = value.decrypt(RING.newest.private_key, place.scope).reveal()
    return found


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_only_the_values_change_however_they_are_written(tmp_path, newline, bom):
    before = texts()
    path = written(tmp_path, bom + MANIFEST % before, newline)
    path.chmod(0o640)
    done = rekeyed(path)
    assert not done.problems
    assert len(done.told) == len(before)
    assert f"shop/order-service PLAIN: key {OLD.newest.id} -> key {RING.newest.id}" in done.told[0]
    after = path.read_bytes().decode()
    assert opened(after.removeprefix(bom)) == dict.fromkeys([*KEYS, "K", "L"], PLAIN)
    # The block scalars are plain ones now; put back the old texts, and all is as it was.
    restored = after
    for place, old in zip(places(after.removeprefix(bom), "team"), before, strict=True):
        restored = restored.replace(place.text, old)
    lines = [line for line in restored.split(newline) if "BLOCK" not in line and "FOLDED" not in line]
    assert set(lines) <= set((bom + MANIFEST % before).replace("\n", newline).split(newline))
    assert "# a comment after a block" in after and "# from the payment provider" in after
    assert f'"{places(after.removeprefix(bom), "team")[2].text}"' in after
    assert path.stat().st_mode & 0o777 == 0o640
    assert [one.name for one in tmp_path.iterdir()] == ["manifest.yaml"]


def test_nothing_is_written_when_all_is_new(tmp_path):
    path = written(
        tmp_path,
        MANIFEST
        % (
            *texts()[:0],
            *(sealed(k, ring=RING) for k in KEYS),
            sealed("K", "b", "team", RING),
            sealed("L", "b", "team", RING),
        ),
    )
    os.utime(path, (1, 1))
    assert rekeyed(path).told == ("everything is encrypted with the newest key already",)
    assert path.stat().st_mtime == 1


IDENTITY = "{apiVersion: serviceidentity.dev/v1alpha1, kind: ServiceIdentity, metadata: {name: a, namespace: n}, spec: {encrypted: {values: {%s}}}}\n"


def symmetric(number: int) -> str:
    return values.encrypt_symmetric(KeyMaterial(PLAIN), MASTERS[number])


def test_symmetric_values_stay_so_move_to_the_newest_key_or_are_converted(tmp_path):
    old, new = symmetric(1), symmetric(0)
    source = IDENTITY % f'A: "{old}", B: "{new}", C: "{old}"'
    path = written(tmp_path, source)
    assert "already" in rekeyed(path).told[0]
    done = rekeyed(path, masters=MASTERS)
    assert len(done.told) == 2 and "a master key -> a master key" in done.told[0]
    moved = [place.text for place in places(path.read_text(), None)]
    assert moved[1] == new
    assert all(values.parse(text).decrypt(MASTERS[0]).reveal() == PLAIN for text in moved)
    assert len(rekeyed(path, masters=MASTERS, convert=True).told) == 3
    assert opened(path.read_text()) == dict.fromkeys("ABC", PLAIN)


def test_one_bad_value_in_one_file_leaves_all_files_alone(tmp_path):
    good = written(tmp_path, IDENTITY % f"A: {sealed('A', 'a', 'n')}")
    bad = tmp_path / "bad.yaml"
    bad.write_text(IDENTITY % f"A: {sealed('B', 'a', 'n')}")
    before = good.read_text()
    done = encryption.rekey([good, bad], RING, (), None, convert=False)
    assert "bad.yaml: n/a: A: changed, or made for another" in done.problems[0]
    assert done.problems[-1] == "nothing was changed"
    assert good.read_text() == before


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a: [", "no YAML that can be read, line"),
        ("[" * 5000, "nested too deeply"),
        (IDENTITY.replace(", namespace: n", "") % "A: ENC:v1:x", "give --namespace"),
        (IDENTITY % 'A: &x "ENC:00000000000000000000000000000000:00000000000000000000000000000000:00", B: *x', "alias"),
    ],
)
def test_what_can_not_be_read_is_said(tmp_path, source, message):
    done = rekeyed(written(tmp_path, source), namespace=None)
    assert message in done.problems[0]


def test_a_value_folded_over_lines_is_joined(tmp_path):
    text = sealed("A", "a", "n")
    path = written(tmp_path, IDENTITY % f'A: "{text[:50]}\\\n  {text[50:]}"')
    assert len(rekeyed(path).told) == 1
    assert opened(path.read_text()) == {"A": PLAIN}
    assert yaml.safe_load(path.read_text())["kind"] == "ServiceIdentity"


def test_a_link_stays_a_link(tmp_path):
    path = written(tmp_path, IDENTITY % f"A: {sealed('A', 'a', 'n')}")
    link = tmp_path / "link.yaml"
    link.symlink_to(path)
    rekeyed(link)
    assert link.is_symlink()
    assert opened(path.read_text()) == {"A": PLAIN}


def test_other_documents_without_values_are_none_of_our_business():
    assert (
        places(
            "kind: ServiceIdentity\napiVersion: example.org/v1\nmetadata: {name: a}\nspec: {encrypted: {values: {A: ENC:x}}}",
            "n",
        )
        == []
    )
    assert places("", None) == [] == places("- 1\n- 2\n---\ntext", None)


def test_encryption_needs_a_key_that_is_one(tmp_path):
    pem = rings.to_pem(RING.newest.private_key.public_key())
    text = encryption.encrypt(PLAIN, Scope("n", "a", "A"), pem)
    assert values.parse(text).decrypt(RING.newest.private_key, Scope("n", "a", "A")).reveal() == PLAIN
    for wrong in (b"", b"x"):
        with pytest.raises(UsageError, match="public key can't be used"):
            encryption.encrypt(PLAIN, Scope("n", "a", "A"), wrong)
    with pytest.raises(UsageError, match="at most"):
        encryption.encrypt(b"x" * (values.LARGEST + 1), Scope("n", "a", "A"), pem)
    (tmp_path / "masters").write_text("no key")
    with pytest.raises(UsageError, match="line 1"):
        encryption.encrypt_symmetric(PLAIN, tmp_path / "masters")
    with pytest.raises(UsageError, match="No such file"):
        encryption.read_ring(tmp_path / "nowhere")
    with pytest.raises(ManifestError):
        places("{", None)
