"""Revoking identities: from the annotation to a server that refuses the old certificate, and with kills in between."""

import json
import ssl
import subprocess
import time
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from examples.demo import mtls
from tests.controlplane import ControlPlane
from tests.controlplane.operator import NAMESPACE, OperatorProcess
from tests.e2e.support import API, Space, chain, eventually, fits, new_space, trust_domain, writes
from tests.e2e.test_cli import sid

pytestmark = pytest.mark.e2e
END = "-----END X509 CRL-----\n"


def lists(plane: ControlPlane, domain: str) -> dict[str, bytes]:
    """Return the revocation lists of a trust domain, by the name of their authority."""
    items = plane.get("secrets", f"--namespace={NAMESPACE}", f"--selector=serviceidentity.dev/trust-domain={domain}")[
        "items"
    ]
    ours = [item for item in items if item["type"] == "serviceidentity.dev/crl"]
    names = (item["metadata"]["name"].removeprefix(f"{domain}-").removesuffix("-crl") for item in ours)
    return dict(zip(names, (b64decode(item["data"]["ca.crl"]) for item in ours), strict=True))


def listed(plane: ControlPlane, domain: str) -> set[int]:
    """Return every serial number that is on a list."""
    found = lists(plane, domain).values()
    return {entry.serial_number for pem in found for entry in x509.load_pem_x509_crl(pem)}


def beside_the_bundle(space: Space, serial: int) -> bytes:
    """Return `ca.crl` of the namespace's trust bundle, if that number is on one of its lists."""
    text = space.plane.get("configmap", f"{space.name}-trust-bundle", f"--namespace={space.name}")["data"]["ca.crl"]
    crls = [x509.load_pem_x509_crl(f"{part}{END}".encode()) for part in text.split(END)[:-1]]
    listed = {entry.serial_number for crl in crls for entry in crl}
    return str(text).encode() if serial in listed else b""


def crl_status(plane: ControlPlane, domain: str) -> dict[str, dict[str, Any]]:
    status = plane.get("td", domain).get("status", {})
    return {a["secretName"].removeprefix(f"{domain}-"): a["crl"] for a in status.get("authorities", []) if "crl" in a}


def openssl_verifies(folder: Path, files: dict[str, bytes], crls: bytes) -> str:
    for name, content in (("tls.crt", files["tls.crt"]), ("ca.crt", files["ca.crt"]), ("ca.crl", crls)):
        (folder / name).write_bytes(content)
    command = ["openssl", "verify", "-x509_strict", "-crl_check_all", "-CAfile", str(folder / "ca.crt")]
    command += ["-CRLfile", str(folder / "ca.crl"), "-untrusted", str(folder / "tls.crt"), str(folder / "tls.crt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_a_revoked_certificate_is_refused_by_a_server_that_loads_the_lists(
    space: Space, control_plane: ControlPlane, tmp_path: Path
):
    name = space.name
    selector = {"matchLabels": {"kubernetes.io/metadata.name": name}}
    trust_domain(control_plane, name, crl={"duration": "24h"}, bundle={"target": {"namespaceSelector": selector}})
    for service in ("a", "b"):
        certificate = {"dnsNames": [f"{service}.{name}.svc"], "privateKey": {"rotationPolicy": "Never"}}
        space.apply(service, {"trustDomainRef": {"name": name}, "certificate": certificate})
    space.ready()
    stolen, server = space.data("a-tls"), space.data("b-tls")
    eventually(lambda: set(lists(control_plane, name)) == {"root-1", "intermediate-1"})
    assert "OK" in openssl_verifies(tmp_path, stolen, b"".join(lists(control_plane, name).values()))

    sid(control_plane, "-n", name, "revoke", "a", "--reason=keyCompromise")
    fresh = eventually(lambda: (new := space.data("a-tls"))["tls.key"] != stolen["tls.key"] and new)
    serial = chain(stolen)[0].serial_number
    eventually(lambda: serial in listed(control_plane, name))
    assert fits(fresh)
    crls = eventually(lambda: beside_the_bundle(space, serial))
    assert "certificate revoked" in openssl_verifies(tmp_path, stolen, crls)
    assert "OK" in openssl_verifies(tmp_path, fresh, crls)
    for flag in (ssl.VERIFY_CRL_CHECK_LEAF, ssl.VERIFY_CRL_CHECK_CHAIN):
        assert handshake(tmp_path, server, fresh, f"b.{name}.svc", crls, flag) == ""
        assert "certificate revoked" in handshake(tmp_path, server, stolen, f"b.{name}.svc", crls, flag)
    assert mtls.connect(server, stolen, f"b.{name}.svc", roots=stolen["ca.crt"]).established, "where nobody checks"
    eventually(lambda: crl_status(control_plane, name)["intermediate-1"] | {"thisUpdate": "", "nextUpdate": ""} == {
        "number": 2, "revoked": 1, "thisUpdate": "", "nextUpdate": "",
    })  # fmt: skip
    assert "1 revoked, until" in sid(control_plane, "ca", "status", name)


def handshake(
    folder: Path, server: dict[str, bytes], client: dict[str, bytes], name: str, crls: bytes, flag: int
) -> str:
    """Return why the server refuses the client, if it does."""
    ends = {}
    for side, files in ((ssl.PROTOCOL_TLS_SERVER, server), (ssl.PROTOCOL_TLS_CLIENT, client)):
        context = ssl.SSLContext(side)
        for key in ("tls.crt", "tls.key"):
            (folder / key).write_bytes(files[key])
        context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
        context.load_verify_locations(cadata=files["ca.crt"].decode())
        context.verify_mode = ssl.CERT_REQUIRED
        ends[side] = context
    (folder / "ca.crl").write_bytes(crls)
    ends[ssl.PROTOCOL_TLS_SERVER].load_verify_locations(folder / "ca.crl")
    ends[ssl.PROTOCOL_TLS_SERVER].verify_flags |= flag
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    waiting = [
        ends[ssl.PROTOCOL_TLS_CLIENT].wrap_bio(to_client, to_server, server_hostname=name),
        ends[ssl.PROTOCOL_TLS_SERVER].wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(10):
        for end in list(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return str(error)
    assert not waiting
    return ""


def test_a_list_is_refreshed_in_time_and_numbers_grow(space: Space, control_plane: ControlPlane):
    name = space.name
    trust_domain(control_plane, name, crl={"duration": "10s", "renewBefore": "8s"}, backdate="0s")
    seen = []

    def three_of_them() -> bool:
        for pem in lists(control_plane, name).values():
            crl = x509.load_pem_x509_crl(pem)
            assert crl.next_update_utc is not None
            number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
            seen.append((crl.issuer, number, crl.last_update_utc, crl.next_update_utc))
        return any(number == 3 for _, number, _, _ in seen)

    eventually(three_of_them)
    for issuer in {issuer for issuer, *_ in seen}:
        ours = sorted({entry[1:] for entry in seen if entry[0] == issuer})
        for (_, _, end), (_, begin, _) in zip(ours, ours[1:], strict=False):
            assert begin < end, "the next one is there before the last one ends"
    control_plane.kubectl("delete", "td", name)  # it would write for ever, which other tests count


def test_nothing_is_forgotten_when_the_operator_is_killed_while_it_revokes(own_plane: ControlPlane):
    space, count = new_space(own_plane), 30
    operator = OperatorProcess(own_plane, events=False)
    operator.start()
    documents = (
        f"apiVersion: {API}\nkind: ServiceIdentity\nmetadata: {{name: s{n}, namespace: {space.name}}}\n"
        "spec: {certificate: {privateKey: {rotationPolicy: Never}}}\n"
        for n in range(count)
    )
    space.kubectl("apply", "-f", "-", input="---\n".join(documents))
    space.ready(timeout=30)
    old = files_of(space)
    assert lists(own_plane, "default") == {}, "nothing is revoked, nothing is written"
    operator.kill()
    space.kubectl("annotate", "sid", "--all", "serviceidentity.dev/revoke=1")
    for pause in (0.0, 0.02, 0.05):
        operator.start()
        time.sleep(pause)
        operator.kill()
    operator.start()
    wanted = {chain(files)[0].serial_number for files in old.values()}
    eventually(lambda: all(new["tls.key"] != old[name]["tls.key"] for name, new in files_of(space).items()))
    eventually(lambda: listed(own_plane, "default") == wanted)
    space.ready()
    assert len(old) == count
    assert all(fits(new) for new in files_of(space).values())
    revisions = {s["metadata"]["annotations"]["serviceidentity.dev/revision"] for s in space.secrets().values()}
    assert revisions == {"2"}, "each request is served once"
    before, numbers = writes(own_plane), crl_status(own_plane, "default")
    operator.kill()
    operator.start()
    time.sleep(1)
    assert writes(own_plane) == before, "at rest, also after a restart"
    own_plane.kubectl("delete", "sid", "s0", f"--namespace={space.name}")
    serial = chain(space.data("s1-tls"))[0].serial_number
    patch = {"spec": {"revokedCertificates": [{"serialNumber": f"{serial:x}", "reason": "superseded"}]}}
    own_plane.kubectl("patch", "td", "default", "--type=merge", "--patch", json.dumps(patch))
    eventually(lambda: chain(space.data("s1-tls"))[0].serial_number != serial)
    eventually(lambda: listed(own_plane, "default") == wanted | {serial}, 20)
    number = numbers["intermediate-1"]["number"] + 1
    eventually(lambda: crl_status(own_plane, "default")["intermediate-1"]["number"] == number)
    operator.stop()


def files_of(space: Space) -> dict[str, dict[str, bytes]]:
    return {
        name: {key: b64decode(value) for key, value in item["data"].items()} for name, item in space.secrets().items()
    }


def test_others_are_served_when_a_trust_domain_goes_that_has_revoked_something(
    space: Space, control_plane: ControlPlane
):
    for name in (space.name, f"{space.name}-next"):
        trust_domain(control_plane, name, deletionPolicy="Delete")
        service = name.removeprefix("t-")
        space.apply(service, {"trustDomainRef": {"name": name}, "certificate": {}})
        space.ready(service)
        space.kubectl("annotate", "sid", service, "serviceidentity.dev/revoke=1")
        eventually(lambda name=name: any(one["revoked"] for one in crl_status(control_plane, name).values()))
        control_plane.kubectl("delete", "td", name)
