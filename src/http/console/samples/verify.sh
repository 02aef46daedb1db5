# For ENDPOINT: $id, $timestamp and $signature are the headers webhook-id, webhook-timestamp and webhook-signature,
# body.json is the body as it came, and $secret the endpoint's secret.
key=$(printf %s "${secret#whsec_}" | base64 -d | od -An -tx1 | tr -d ' \n')
expected=$({ printf '%s.%s.' "$id" "$timestamp"; cat body.json; } |
  openssl dgst -sha256 -mac HMAC -macopt "hexkey:$key" -binary | base64)
case " $signature " in *" v1,$expected "*) echo valid ;; *) echo invalid ;; esac
