"""`kubectl sid policy test`: the example passes, a case that differs is told with its reason, and files can be wrong."""

from pathlib import Path

import pytest
import yaml

from serviceidentity.cli.main import main

UNKNOWN_VARIABLE = """
apiVersion: serviceidentity.dev/v1alpha1
kind: AccessPolicy
metadata: {name: a}
spec: {selector: {}, rules: [{name: r, effect: Deny, expression: 'x'}]}
"""
EXAMPLES = Path(__file__).parents[3] / "examples" / "access"


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["policy", "test", *map(str, arguments)])
    out, err = capsys.readouterr()
    return ended.value.code, out, err


@pytest.fixture
def changed(tmp_path):
    """Return the example's cases, changed."""

    def write(change):
        body = yaml.safe_load((EXAMPLES / "cases.yaml").read_text())
        change(body)
        path = tmp_path / "cases.yaml"
        path.write_text(yaml.safe_dump(body))
        return path

    return write


def test_the_example(capsys):
    code, out, err = run(capsys, EXAMPLES / "policy.yaml", "--cases", EXAMPLES / "cases.yaml")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "8 cases, 0 failed"
    assert "ok    the owner reads: allow by payments/owner (the owner may)" in out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"expect": "deny"}, "expected deny, got allow by payments/owner (the owner may)"),
        ({"rule": "admins"}, "expected rule admins, got allow by payments/owner"),
        ({"reason": "why not"}, "expected the reason 'why not', got allow by payments/owner"),
    ],
)
def test_a_case_that_differs(capsys, changed, change, said):
    cases = changed(lambda body: body["cases"][0].update(change))
    code, out, _ = run(capsys, EXAMPLES / "policy.yaml", "--cases", cases)
    assert code == 1
    assert f"FAIL  the owner reads: {said}" in out
    assert "8 cases, 1 failed" in out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda body: body.pop("now"), "cases[0].now: must be a time with its zone"),
        (lambda body: body.update(now="2026-01-05T11:00:00"), "must be a time with its zone"),
        (lambda body: body.update(cases=[]), "must be one document with a list `cases`"),
        (lambda body: body.update(extra=1), "must be one document with a list `cases`"),
        (lambda body: body["cases"][0].update(expected="deny"), "cases[0]: there is no field expected"),
        (lambda body: body["cases"][0].pop("expect"), "cases[0].expect: must be allow or deny"),
        (lambda body: body["cases"][0].pop("action"), "cases[0].action: must be a text"),
        (lambda body: body["cases"][0].update(principal={"roles": "admin"}), "roles: must be a list of texts"),
        (lambda body: body["cases"][0].update(principal={"role": ["admin"]}), "there is no field role"),
        (lambda body: body["cases"][0].update(resource=[1]), "cases[0].resource: must be an object"),
        (lambda body: body["cases"][0].update(rule=1), "cases[0].rule: must be a text"),
    ],
)
def test_cases_that_make_no_sense(capsys, changed, change, said):
    code, out, err = run(capsys, EXAMPLES / "policy.yaml", "--cases", changed(change))
    assert (code, out) == (2, "")
    assert said in err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: Secret", "there is no AccessPolicy in it"),
        ("a: [", "it is no YAML that can be read"),
        ("apiVersion: serviceidentity.dev/v1alpha1\nkind: AccessPolicy", "an AccessPolicy without a name"),
        ("apiVersion: x/v1\nkind: AccessPolicy\nmetadata: {name: a}", "AccessPolicy a: not of serviceidentity.dev"),
        (
            UNKNOWN_VARIABLE,
            "AccessPolicy a: spec.rules[0].expression: rule r: there is no variable x",
        ),
    ],
)
def test_manifests_that_make_no_sense(capsys, tmp_path, text, said):
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    code, _, err = run(capsys, path, "--cases", EXAMPLES / "cases.yaml")
    assert code == 2
    assert said in err


def test_a_file_that_is_not_there(capsys, tmp_path):
    code, _, err = run(capsys, tmp_path / "none", "--cases", EXAMPLES / "cases.yaml")
    assert code == 2
    assert "No such file" in err
