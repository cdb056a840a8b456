"""Having made what Vault makes on request: certificates and data keys."""

from serviceidentity.app.ports import Clock
from serviceidentity.app.vault.ports import VaultClient
from serviceidentity.domain.credentials import vault_pki, vault_transit
from serviceidentity.domain.vault.spec import PkiSource, TransitSource
from serviceidentity.domain.vault.views import Answer, VaultOrder


async def make(client: VaultClient, order: VaultOrder, clock: Clock) -> Answer:
    """Have it made. Raises PortError; PkiError when a certificate is not what was asked for."""
    source = order.secret.source
    if isinstance(source, PkiSource) and order.request is not None and order.key is not None:
        signed = await client.sign(source.mount, source.role, order.request)
        now = clock()
        values = vault_pki.examined(source, order.key, signed.certificate, signed.chain, signed.authority, now)
        return Answer(values, key=order.key, made=now)
    if isinstance(source, TransitSource):
        made = await client.data_key(source.mount, source.key, source.bits)
        fields = {vault_transit.PLAINTEXT: made.plaintext.reveal(), vault_transit.CIPHERTEXT: made.wrapped}
        return Answer(fields, made=clock())
    raise TypeError("nothing that is made on request")
