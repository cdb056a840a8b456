"""What the API server accepts, refuses and shows: the schemas in crds/ on a real one.

`bad/` holds one file for each way to get a manifest wrong. Its first line is the one line that the user has to see:
`# expect: <field>: <what is wrong and what is allowed>`. Of a file with two documents the first is there already and
the second is the change that is refused. `good/` holds manifests that are accepted, in the same form.
"""

import json
import re
import secrets
import urllib.error
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

HERE = Path(__file__).parent
CRDS = Path(__file__).parents[3] / "crds"
CRD_FILES = sorted(CRDS.glob("*.serviceidentity.dev.yaml"))
BAD = sorted((HERE / "bad").glob("*.yaml"))
GOOD = sorted((HERE / "good").glob("*.yaml"))
# kubectl takes ten times as long as the API server: every eighth is enough to see that its lines are as expected.
SHOWN_BY_KUBECTL = BAD[::8]
DEFINITIONS = [yaml.safe_load(file.read_text())["spec"] for file in CRD_FILES]
PLURALS = {one["names"]["kind"]: one["names"]["plural"] for one in DEFINITIONS}
CLUSTER_SCOPED = {one["names"]["kind"] for one in DEFINITIONS if one["scope"] == "Cluster"}
NAMESPACE = f"crd-contract-{secrets.token_hex(4)}"
# What the API server adds when a broken schema constraint kept it from evaluating the rules.
RULES_SKIPPED = "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid"
EXPECTATION = re.compile(r"(metadata\.name|spec[\w.\[\]]*): |unknown field \"spec")

pytestmark = pytest.mark.contract


class Api:
    """kubectl in a namespace of our own."""

    def __init__(self, control_plane: Any) -> None:
        self.control_plane = control_plane

    def __call__(self, *args: str, input: str | None = None, check: bool = True) -> Any:
        return self.control_plane.kubectl(*args, "--namespace", NAMESPACE, input=input, check=check)

    def apply(self, manifest: str, *flags: str, check: bool = True) -> Any:
        return self("apply", "--filename", "-", *flags, input=manifest, check=check)

    def shown(self, manifest: str) -> list[str]:
        """Return the lines in which kubectl says why it is refused."""
        refused = self.apply(manifest, "--dry-run=server", check=False)
        assert refused.returncode != 0, "the API server accepted it"
        return list(refused.stderr.splitlines())

    def refusal(self, manifest: str) -> list[str]:
        """Return the lines that kubectl would show, without kubectl."""
        body = yaml.safe_load(manifest)
        scoped = "" if body["kind"] in CLUSTER_SCOPED else f"/namespaces/{NAMESPACE}"
        path = f"/apis/{body['apiVersion']}{scoped}/{PLURALS[body['kind']]}?dryRun=All&fieldValidation=Strict"
        with pytest.raises(urllib.error.HTTPError) as refused:
            self.control_plane.create(path, body)
        status = json.loads(refused.value.read())
        causes = (status.get("details") or {}).get("causes") or []
        return [f"{cause['field']}: {cause['message']}" for cause in causes] or [status["message"]]

    def show(self, manifest: str) -> dict[str, Any]:
        """Return what the object would be stored as."""
        return json.loads(self.apply(manifest, "--dry-run=server", "--output", "json").stdout)


@pytest.fixture(scope="module")
def api(control_plane: Any) -> Iterator[Api]:
    api = Api(control_plane)
    control_plane.kubectl("apply", "--server-side", "--kustomize", str(CRDS))
    names = [yaml.safe_load(file.read_text())["metadata"]["name"] for file in CRD_FILES]
    control_plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", *names)
    control_plane.kubectl("create", "namespace", NAMESPACE)
    yield api
    control_plane.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


@pytest.fixture
def existing(api: Api) -> Iterator[Any]:
    """Create objects, and remove them after the test."""
    made: list[str] = []

    def create(manifest: str) -> None:
        made.append(manifest)
        api.apply(manifest)

    yield create
    for manifest in made:
        api("delete", "--filename", "-", input=manifest)


def documents(file: Path) -> tuple[list[str], str]:
    """Return the manifests that are there already, and the one to try."""
    *before, tried = file.read_text().split("---\n")
    return before, tried


@pytest.mark.parametrize("file", BAD, ids=lambda file: file.stem)
def test_bad_manifest_is_refused_with_one_clear_line(api: Api, existing: Any, file: Path) -> None:
    expected = file.read_text().splitlines()[0].removeprefix("# expect: ")
    assert EXPECTATION.match(expected), "the expectation has to name the field"
    before, tried = documents(file)
    for manifest in before:
        existing(manifest)

    refused = api.shown(tried) if before or file in SHOWN_BY_KUBECTL else api.refusal(tried)

    complaints = [line for line in refused if RULES_SKIPPED not in line and not line.endswith("is invalid: ")]
    assert len(complaints) == 1, refused
    assert expected in complaints[0], refused


@pytest.mark.parametrize("file", GOOD, ids=lambda file: file.stem)
def test_good_manifest_is_accepted(api: Api, existing: Any, file: Path) -> None:
    before, tried = documents(file)
    for manifest in before:
        existing(manifest)

    api.apply(tried, "--dry-run=server")


def test_example_of_a_policy_is_accepted(api: Api) -> None:
    manifest = (CRDS.parent / "examples" / "policy" / "trust-domain.yaml").read_text()

    assert api.show(manifest)["spec"]["policy"] == yaml.safe_load(manifest)["spec"]["policy"]


def test_example_of_an_access_policy_is_accepted(api: Api) -> None:
    manifest = (CRDS.parent / "examples" / "access" / "policy.yaml").read_text().replace("  namespace: shop\n", "")

    assert api.show(manifest)["spec"] == yaml.safe_load(manifest)["spec"]


def test_example_of_encrypted_values_is_accepted(api: Api) -> None:
    manifest = (CRDS.parent / "examples" / "encrypted" / "service-identity.yaml").read_text()
    manifest = manifest.replace(", namespace: shop", "")

    assert api.show(manifest)["spec"]["encrypted"] == yaml.safe_load(manifest)["spec"]["encrypted"]


def test_example_of_a_signing_key_is_accepted(api: Api) -> None:
    manifest = (CRDS.parent / "examples" / "jwt" / "service-identity.yaml").read_text().replace(", namespace: shop", "")

    shown = api.show(manifest)["spec"]["jwt"]
    assert (shown["maxTokenTTL"], shown["algorithm"]) == ("15m", "ES256")


def test_manifests_of_auth_service_are_accepted(api: Api) -> None:
    for file in sorted((CRDS.parent / "services" / "auth" / "deploy").glob("*.yaml")):
        if file.name != "kustomization.yaml":
            api.apply(file.read_text().replace("namespace: shop", f"namespace: {NAMESPACE}"), "--dry-run=server")


def test_defaults_of_an_identity(api: Api) -> None:
    stored = api.show((HERE / "good" / "sid-minimal-certificate.yaml").read_text())

    assert stored["spec"] == {
        "trustDomainRef": {"name": "default"},
        "certificate": {
            "duration": "24h",
            "usages": ["digital signature", "server auth", "client auth"],
            "privateKey": {"algorithm": "ECDSA", "encoding": "PKCS8", "rotationPolicy": "Always"},
        },
        "deletionPolicy": "Delete",
        "suspend": False,
    }


def test_defaults_of_hmac(api: Api) -> None:
    stored = api.show((HERE / "good" / "sid-minimal-hmac.yaml").read_text())

    assert stored["spec"]["hmac"] == {"rotateEvery": "720h", "overlap": "24h", "publishBefore": "2m"}
    assert "certificate" not in stored["spec"]


def test_defaults_of_a_rollout(api: Api) -> None:
    stored = api.show((HERE / "good" / "sid-minimal-rollout.yaml").read_text())

    assert stored["spec"]["rollout"] == {
        "targets": [{"kind": "Deployment", "name": "order-service"}],
        "minInterval": "10m",
        "settle": "10s",
    }


def test_default_key_of_a_keystore_password(api: Api) -> None:
    stored = api.show((HERE / "good" / "sid-keystore-own-password.yaml").read_text())

    assert stored["spec"]["certificate"]["keystorePasswordSecretRef"] == {"name": "keystore", "key": "password"}


def test_defaults_of_a_published_bundle(api: Api) -> None:
    stored = api.show((HERE / "good" / "td-bundle-everywhere.yaml").read_text())

    assert stored["spec"]["bundle"] == {
        "target": {
            "kind": "ConfigMap",
            "namespaceSelector": {},
            "formats": ["PEM"],
            "truststorePassword": "changeit",
        },
        "extraRoots": [{"configMapRef": {"name": "company-cas", "key": "ca.crt"}}],
    }


def test_defaults_of_a_trust_domain(api: Api) -> None:
    stored = api.show((HERE / "good" / "td-minimal.yaml").read_text())

    assert stored["spec"] == {
        "trustDomain": "example.org",
        "root": {"duration": "87600h", "privateKey": {"algorithm": "ECDSA"}},
        "intermediate": {"duration": "8760h", "privateKey": {"algorithm": "ECDSA"}},
        "maxLeafDuration": "2160h",
        "backdate": "5m",
        "propagation": "1h",
        "reissuesPerSecond": 20,
        "deletionPolicy": "Retain",
    }


def test_defaults_of_a_connection(api: Api) -> None:
    stored = api.show((HERE / "good" / "vc-minimal.yaml").read_text())

    assert stored["spec"] == {
        "address": "https://vault.example.org:8200",
        "auth": {"kubernetes": {"mount": "kubernetes", "serviceAccount": "Identity"}},
        "allowedNamespaces": {"names": ["shop"]},
        "limits": {"requestsInFlight": 8},
    }


@pytest.mark.parametrize("name", ["sid-everything", "td-everything", "vc-everything"])
def test_nothing_that_was_asked_for_is_dropped_or_changed(api: Api, name: str) -> None:
    manifest = (HERE / "good" / f"{name}.yaml").read_text()

    assert api.show(manifest)["spec"] == yaml.safe_load(manifest)["spec"]


def schemas(node: Mapping[str, Any], path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Return every schema below this one with its path; that of metadata is the API server's own."""
    if not path.endswith(".metadata"):
        yield path, node
    for name, child in node.get("properties", {}).items():
        yield from schemas(child, f"{path}.{name}")
    for keyword in ("items", "additionalProperties"):
        if keyword in node:
            yield from schemas(node[keyword], f"{path}[]")


def every_schema() -> list[Any]:
    found = []
    for file in CRD_FILES:
        crd = yaml.safe_load(file.read_text())
        (version,) = crd["spec"]["versions"]
        for path, schema in schemas(version["schema"]["openAPIV3Schema"], crd["spec"]["names"]["kind"]):
            found.append(pytest.param(schema, id=path))
    return found


@pytest.mark.parametrize("schema", every_schema())
def test_field_is_described_and_bounded(schema: Mapping[str, Any]) -> None:
    assert schema["description"].endswith(".")
    match schema["type"]:
        case "array":
            assert schema["maxItems"] > 0
            assert schema["x-kubernetes-list-type"] in {"set", "map", "atomic"}
        case "object" if "additionalProperties" in schema:
            assert schema["maxProperties"] > 0
    for rule in schema.get("x-kubernetes-validations", []):
        assert rule["message"]
        assert "\n" not in rule["message"]


@pytest.mark.parametrize(
    ("field", "sentence"),
    [
        ("sid.spec.certificate.renewBefore", "How long before its end a certificate is renewed"),
        ("sid.spec.hmac.overlap", "How long the previous key still verifies"),
        ("sid.status.certificate.renewalTime", "When it will be renewed"),
        ("td.spec.root.duration", "How long a root is valid"),
        ("td.spec.bundle.target.namespaceSelector", "Which namespaces get the bundle"),
        ("vc.spec.allowedNamespaces", "Namespaces whose identities may use this connection"),
    ],
)
def test_kubectl_explains_a_field(api: Api, field: str, sentence: str) -> None:
    assert sentence in " ".join(api("explain", field).stdout.split())


IDENTITY_STATUS = {
    "observedGeneration": 1,
    "conditions": [
        {
            "type": "Ready",
            "status": "True",
            "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
            "reason": "Issued",
            "message": "everything is in place",
        }
    ],
    "spiffeID": "spiffe://example.org/ns/shop/sa/order-service",
    "nextActionTime": "2126-01-01T16:00:00Z",
    "certificate": {
        "secretName": "order-service-tls",
        "serialNumber": "0a1b",
        "fingerprint": "ab" * 32,
        "issuerFingerprint": "cd" * 32,
        "notBefore": "2126-01-01T00:00:00Z",
        "notAfter": "2126-01-02T00:00:00Z",
        "renewalTime": "2126-01-01T16:00:00Z",
        "revision": 1,
    },
    "hmac": {
        "secretName": "order-service-hmac",
        "keys": [
            {"keyID": "0011223344556677", "state": "Active", "activationTime": "2026-01-01T00:00:00Z"},
            {"keyID": "8899aabbccddeeff", "state": "Retiring", "retirementTime": "2126-01-02T00:00:00Z"},
        ],
        "nextRotationTime": "2126-01-31T00:00:00Z",
    },
    "keyring": {
        "secretName": "order-service-hmac-keyring",
        "callers": [{"serviceID": "web", "name": "web", "namespace": "shop", "keyIDs": ["0011223344556677"]}],
    },
    "encrypted": {
        "secretName": "order-service-encrypted",
        "values": [{"name": "LEGACY", "form": "Symmetric"}, {"name": "STRIPE_KEY", "keyID": "0011223344556677"}],
    },
    "rollout": [
        {
            "kind": "Deployment",
            "name": "order-service",
            "contentIDs": {"order-service-tls": "0011223344556677"},
            "lastRestartTime": "2026-01-01T00:00:00Z",
            "pendingSince": "2026-01-01T00:05:00Z",
            "restartTime": "2026-01-01T00:10:00Z",
        },
        {"kind": "DaemonSet", "name": "agent", "contentIDs": {}, "problem": "TargetNotFound"},
    ],
    "backoff": {
        "failedAttempts": 1,
        "lastFailureTime": "2026-01-01T00:00:00Z",
        "nextAttemptTime": "2026-01-01T00:01:00Z",
    },
}
AUTHORITY = {
    "role": "Root",
    "generation": 1,
    "state": "Active",
    "secretName": "example-root-1",
    "serialNumber": "01",
    "keyEncryptionKey": "file:2026-11",
    "fingerprint": "ef" * 32,
    "issuerFingerprint": "ef" * 32,
    "notBefore": "2026-01-01T00:00:00Z",
    "notAfter": "2036-01-01T00:00:00Z",
}
DOMAIN_STATUS = {
    "observedGeneration": 1,
    "conditions": IDENTITY_STATUS["conditions"],
    "nextActionTime": "2126-09-01T00:00:00Z",
    "authorities": [
        AUTHORITY | {"role": "Intermediate", "notAfter": "2027-01-01T00:00:00Z"},
        AUTHORITY,
        AUTHORITY | {"generation": 2, "state": "Prepared"},
    ],
    "bundle": {
        "kind": "ConfigMap",
        "name": "example-trust-bundle",
        "namespaces": 3,
        "published": 2,
        "conflicts": ["shop"],
        "roots": 3,
        "sequence": 4,
        "digest": "ab" * 32,
        "extraRoots": [
            {"fingerprint": "cd" * 32, "source": "ConfigMap cas, key ca.crt", "notAfter": "2036-01-01T00:00:00Z"}
        ],
    },
    "backoff": IDENTITY_STATUS["backoff"],
}


def with_status(api: Api, existing: Any, file: str, resource: str, status: Mapping[str, Any]) -> None:
    existing((HERE / "good" / file).read_text())
    api("patch", resource, "--subresource=status", "--type=merge", "--patch", json.dumps({"status": status}))


def table(text: str) -> dict[str, str]:
    """Return the only row of a table of kubectl by its headings."""
    headings, row = text.splitlines()
    names = re.split(r" {2,}", headings.strip())
    starts = [headings.index(name) for name in names]
    cells = [row[start:end].strip() for start, end in zip(starts, [*starts[1:], None], strict=True)]
    return dict(zip(names, cells, strict=True))


def test_status_of_an_identity_is_kept_and_shown(api: Api, existing: Any) -> None:
    with_status(api, existing, "sid-minimal-certificate.yaml", "sid/order-service", IDENTITY_STATUS)

    assert json.loads(api("get", "sid", "order-service", "--output", "json").stdout)["status"] == IDENTITY_STATUS
    shown = table(api("get", "sid").stdout)
    assert re.fullmatch(r"\d+s", shown.pop("AGE"))
    assert shown == {
        "NAME": "order-service",
        "READY": "True",
        "EXPIRES": "2126-01-02T00:00:00Z",
        "NEXT ACTION": "2126-01-01T16:00:00Z",
    }
    wide = table(api("get", "sid", "--output", "wide").stdout)
    assert wide["SPIFFE ID"] == "spiffe://example.org/ns/shop/sa/order-service"
    assert wide["REASON"] == "Issued"
    assert wide["MESSAGE"] == "everything is in place"


def test_status_of_a_trust_domain_is_kept_and_shown(api: Api, existing: Any) -> None:
    with_status(api, existing, "td-minimal.yaml", "td/example", DOMAIN_STATUS)

    assert json.loads(api("get", "td", "example", "--output", "json").stdout)["status"] == DOMAIN_STATUS
    shown = table(api("get", "td", "example").stdout)
    assert re.fullmatch(r"\d+s", shown.pop("AGE"))
    assert shown == {
        "NAME": "example",
        "TRUST DOMAIN": "example.org",
        "READY": "True",
        "ROOT EXPIRES": "2036-01-01T00:00:00Z",
        "NEXT ACTION": "2126-09-01T00:00:00Z",
    }
    wide = table(api("get", "td", "example", "--output", "wide").stdout)
    assert wide["REASON"] == "Issued"
    assert wide["MESSAGE"] == "everything is in place"


def test_status_of_a_connection_is_kept_and_shown(api: Api, existing: Any) -> None:
    status = {
        "observedGeneration": 1,
        "conditions": IDENTITY_STATUS["conditions"],
        "version": "2.7.2",
        "sealed": False,
        "tokenTTL": "768h",
    }
    with_status(api, existing, "vc-minimal.yaml", "vc/example", status)

    assert json.loads(api("get", "vc", "example", "--output", "json").stdout)["status"] == status
    shown = table(api("get", "vc", "example").stdout)
    assert re.fullmatch(r"\d+s", shown.pop("AGE"))
    assert shown == {
        "NAME": "example",
        "ADDRESS": "https://vault.example.org:8200",
        "READY": "True",
        "VERSION": "2.7.2",
        "SEALED": "false",
    }


def test_spec_can_not_be_changed_through_status_nor_status_through_spec(api: Api, existing: Any) -> None:
    existing((HERE / "good" / "sid-minimal-certificate.yaml").read_text())
    api("patch", "sid", "order-service", "--type=merge", "--patch", json.dumps({"status": IDENTITY_STATUS}))

    assert "status" not in json.loads(api("get", "sid", "order-service", "--output", "json").stdout)


def test_identities_are_selected_by_trust_domain(api: Api, existing: Any) -> None:
    for name, domain in (("order-service", "default"), ("payment-service", "internal")):
        existing(
            f"{{apiVersion: serviceidentity.dev/v1alpha1, kind: ServiceIdentity, metadata: {{name: {name}}},"
            f" spec: {{certificate: {{}}, trustDomainRef: {{name: {domain}}}}}}}"
        )

    selected = api("get", "sid", "--field-selector", "spec.trustDomainRef.name=default", "--output", "name")

    assert selected.stdout.split() == ["serviceidentity.serviceidentity.dev/order-service"]


def test_kinds_are_found_by_singular_and_short_name(api: Api, existing: Any) -> None:
    existing((HERE / "good" / "sid-minimal-hmac.yaml").read_text())
    existing((HERE / "good" / "td-minimal.yaml").read_text())
    existing((HERE / "good" / "vc-minimal.yaml").read_text())
    existing((HERE / "good" / "ap-minimal.yaml").read_text())

    resources = ("sid/order-service", "serviceidentity/order-service", "td/example", "trustdomain/example")
    for resource in (*resources, "vc/example", "vaultconnection/example", "ap/payments", "accesspolicy/payments"):
        api("get", *resource.split("/"))


def test_category_lists_all_kinds(api: Api, existing: Any) -> None:
    existing((HERE / "good" / "sid-minimal-hmac.yaml").read_text())
    existing((HERE / "good" / "td-minimal.yaml").read_text())
    existing((HERE / "good" / "vc-minimal.yaml").read_text())
    existing((HERE / "good" / "ap-minimal.yaml").read_text())

    names = api("get", "service-identity", "--output", "name").stdout.split()

    assert "serviceidentity.serviceidentity.dev/order-service" in names
    assert "trustdomain.serviceidentity.dev/example" in names
    assert "vaultconnection.serviceidentity.dev/example" in names
    assert "accesspolicy.serviceidentity.dev/payments" in names
