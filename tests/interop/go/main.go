// Verifies and signs tokens with go-jose: one JSON object in, one out.
package main

import (
	"encoding/json"
	"log"
	"os"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

type asked struct {
	JWKS   jose.JSONWebKeySet `json:"jwks"`
	Verify []struct {
		Token    string `json:"token"`
		Issuer   string `json:"issuer"`
		Audience string `json:"audience"`
		Now      int64  `json:"now"`
	} `json:"verify"`
	Sign []struct {
		JWK    jose.JSONWebKey `json:"jwk"`
		Claims map[string]any  `json:"claims"`
	} `json:"sign"`
}

var algorithms = []jose.SignatureAlgorithm{jose.ES256, jose.RS256, jose.PS256, jose.EdDSA}

func verify(token, issuer, audience string, now time.Time, keys *jose.JSONWebKeySet) string {
	parsed, err := jwt.ParseSigned(token, algorithms)
	if err != nil {
		return "refused: " + err.Error()
	}
	var claims jwt.Claims
	if err := parsed.Claims(keys, &claims); err != nil {
		return "refused: " + err.Error()
	}
	expected := jwt.Expected{Issuer: issuer, AnyAudience: jwt.Audience{audience}, Time: now}
	if err := claims.ValidateWithLeeway(expected, 0); err != nil {
		return "refused: " + err.Error()
	}
	return claims.Subject
}

func main() {
	var in asked
	if err := json.NewDecoder(os.Stdin).Decode(&in); err != nil {
		log.Fatal(err)
	}
	out := struct {
		Verdicts []string `json:"verdicts"`
		Tokens   []string `json:"tokens"`
	}{}
	for _, one := range in.Verify {
		out.Verdicts = append(out.Verdicts, verify(one.Token, one.Issuer, one.Audience, time.Unix(one.Now, 0), &in.JWKS))
	}
	for _, one := range in.Sign {
		key := jose.SigningKey{Algorithm: jose.SignatureAlgorithm(one.JWK.Algorithm), Key: one.JWK}
		signer, err := jose.NewSigner(key, (&jose.SignerOptions{}).WithType("JWT"))
		if err != nil {
			log.Fatal(err)
		}
		token, err := jwt.Signed(signer).Claims(one.Claims).Serialize()
		if err != nil {
			log.Fatal(err)
		}
		out.Tokens = append(out.Tokens, token)
	}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		log.Fatal(err)
	}
}
