// Verifies and signs tokens with npm's jose, and writes JSON as JavaScript does: one JSON object in, one out.
import { readFileSync } from "node:fs";
import { SignJWT, createLocalJWKSet, importJWK, jwtVerify } from "jose";

const asked = JSON.parse(readFileSync(0, "utf8"));
const keys = createLocalJWKSet(asked.jwks);

const verdicts = [];
for (const { token, issuer, audience, now } of asked.verify) {
  try {
    const options = { issuer, audience, currentDate: new Date(now * 1000), requiredClaims: ["exp"] };
    verdicts.push((await jwtVerify(token, keys, options)).payload.sub);
  } catch (error) {
    verdicts.push(`refused: ${error.code}`);
  }
}

const tokens = [];
for (const { jwk, claims } of asked.sign) {
  const header = { alg: jwk.alg, kid: jwk.kid, typ: "JWT" };
  tokens.push(await new SignJWT(claims).setProtectedHeader(header).sign(await importJWK(jwk)));
}

const texts = (asked.stringify ?? []).map((text) => JSON.stringify(JSON.parse(text)));
process.stdout.write(JSON.stringify({ verdicts, tokens, texts }));
