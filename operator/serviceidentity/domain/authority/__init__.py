"""The authorities of a trust domain: what they are, how their life goes, who signs."""

from serviceidentity.domain.authority import crl_records, crl_report, crls
from serviceidentity.domain.authority.hierarchy import Hierarchy, renewal_of, state_of
from serviceidentity.domain.authority.issuing import IssuingAuthority, read_issuing
from serviceidentity.domain.authority.lifecycle import (
    activation_of,
    deadline,
    last_use,
    plan,
    renewal_is_due,
    retirement_of,
    rotation_asked_for,
)
from serviceidentity.domain.authority.records import (
    AUTHORITY_MISSING,
    AUTHORITY_UNREADABLE,
    GENERATION_LABEL,
    ROLE_LABEL,
    Authority,
    AuthorityState,
    Locked,
    Role,
    Usage,
    authority_name,
    binding_for,
    binding_of,
    is_sealed,
    newest,
    read_authority,
)
from serviceidentity.domain.authority.remote import RemoteIssuer
from serviceidentity.domain.authority.signing import issue
from serviceidentity.domain.authority.sources import Brought, Source, brought_role, copy_of, judged, read_brought
from serviceidentity.domain.authority.steps import (
    ImportAuthority,
    MakeAuthority,
    MarkAuthority,
    RetireAuthority,
    Step,
    Verdict,
)
from serviceidentity.domain.authority.trust import Trust, trust_of
from serviceidentity.domain.authority.upstream import Upstream, read_upstream, request_for, signed_upstream

__all__ = [
    "AUTHORITY_MISSING",
    "AUTHORITY_UNREADABLE",
    "GENERATION_LABEL",
    "ROLE_LABEL",
    "Authority",
    "AuthorityState",
    "Brought",
    "Hierarchy",
    "ImportAuthority",
    "IssuingAuthority",
    "Locked",
    "MakeAuthority",
    "MarkAuthority",
    "RemoteIssuer",
    "RetireAuthority",
    "Role",
    "Source",
    "Step",
    "Trust",
    "Upstream",
    "Usage",
    "Verdict",
    "activation_of",
    "authority_name",
    "binding_for",
    "binding_of",
    "brought_role",
    "copy_of",
    "crl_records",
    "crl_report",
    "crls",
    "deadline",
    "is_sealed",
    "issue",
    "judged",
    "last_use",
    "newest",
    "plan",
    "read_authority",
    "read_brought",
    "read_issuing",
    "read_upstream",
    "renewal_is_due",
    "renewal_of",
    "request_for",
    "retirement_of",
    "rotation_asked_for",
    "signed_upstream",
    "state_of",
    "trust_of",
]
