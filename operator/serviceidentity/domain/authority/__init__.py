"""The authorities of a trust domain: what they are, how their life goes, who signs."""

from serviceidentity.domain.authority import crl_records, crl_report, crls
from serviceidentity.domain.authority.lifecycle import (
    Hierarchy,
    activation_of,
    deadline,
    last_use,
    plan,
    renewal_of,
    retirement_of,
    state_of,
)
from serviceidentity.domain.authority.records import (
    AUTHORITY_MISSING,
    AUTHORITY_UNREADABLE,
    GENERATION_LABEL,
    ROLE_LABEL,
    Authority,
    AuthorityState,
    Role,
    Usage,
    authority_name,
    newest,
    read_authority,
)
from serviceidentity.domain.authority.signing import issue
from serviceidentity.domain.authority.steps import MakeAuthority, MarkAuthority, RetireAuthority, Step, Verdict
from serviceidentity.domain.authority.trust import Trust, trust_of

__all__ = [
    "AUTHORITY_MISSING",
    "AUTHORITY_UNREADABLE",
    "GENERATION_LABEL",
    "ROLE_LABEL",
    "Authority",
    "AuthorityState",
    "Hierarchy",
    "MakeAuthority",
    "MarkAuthority",
    "RetireAuthority",
    "Role",
    "Step",
    "Trust",
    "Usage",
    "Verdict",
    "activation_of",
    "authority_name",
    "crl_records",
    "crl_report",
    "crls",
    "deadline",
    "issue",
    "last_use",
    "newest",
    "plan",
    "read_authority",
    "renewal_of",
    "retirement_of",
    "state_of",
    "trust_of",
]
