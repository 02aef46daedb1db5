//! Rotates and re-encrypts the secrets of endpoints.
//!
//! Secrets and custom header fields are written in clear without `SECRETS_KEY`, and encrypted by its
//! first key with it. Both are read, whatever the setting; what cannot be read is
//! [`DecryptionError`](crate::domain::DecryptionError) within its endpoint.

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;

use super::crypto::{CipherContext, HEAD, KEY_HEAD_CHARS, SecretColumns, key_id_of};
use super::endpoint_versions::next_version;
use super::engine::{Row, args};
use super::{AuditRecord, Result, Store, System, audit, endpoints};
use crate::domain::{
    Actor, Decrypted, Endpoint, EndpointId, OrgId, SecretRotationRefusal, SigningSecret, Timestamp,
};

/// The result of a step of re-encryption.
#[derive(Debug, Default)]
pub struct Reencryption {
    /// Endpoints that were read.
    pub endpoints: usize,
    /// Endpoints that were re-encrypted.
    pub encrypted: usize,
    /// Endpoints that cannot be decrypted, which stay as they are.
    pub unreadable: Vec<EndpointId>,
    /// Where the next step goes on; `None` after the last one.
    pub next: Option<EndpointId>,
}

/// A key of `SECRETS_KEY` that is needed and missing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MissingKey {
    /// Its id, as encrypted texts name it.
    pub id: String,
    /// How many texts are encrypted by it.
    pub texts: i64,
}

/// Endpoints that one step re-encrypts at most.
const REENCRYPTED_PER_STEP: usize = 100;

impl Store {
    /// Replaces an endpoint's secret by `new`; the old one goes on signing for `overlap`.
    /// Returns the endpoint as it is now. [`Endpoint::rotated_secrets`] has the rules.
    pub async fn rotate_secret(
        &self,
        org: OrgId,
        id: EndpointId,
        new: &SigningSecret,
        overlap: Duration,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Result<Endpoint, SecretRotationRefusal>> {
        let mut tx = self.engine.begin().await?;
        let version = next_version(&mut tx, org).await?;
        let Some((endpoint, mut columns)) = self.locked_endpoint(&mut tx, org, id).await? else {
            return Ok(Err(SecretRotationRefusal::NotFound));
        };
        let secrets = match endpoint.rotated_secrets(new.clone(), overlap, now) {
            Ok(secrets) => secrets,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let context = CipherContext { org, endpoint: id };
        (columns.secret, columns.earlier_secrets) =
            self.keyring.encrypt_secrets(context, &secrets)?;
        let after = Endpoint { secrets: Ok(secrets), updated_at: now, version, ..endpoint };
        endpoints::write(&mut tx, &after, &columns).await?;
        audit::commit(tx, &AuditRecord::secret_rotated(org, id, new), by, now).await?;
        Ok(Ok(after))
    }
}

impl System<'_> {
    /// Encrypts by the first key whatever is in clear or encrypted by another one: one step, over some endpoints
    /// after `after` in the order of their ids. Repeating it changes nothing, so it can be
    /// interrupted and started again. Without keys it changes nothing.
    pub async fn reencrypt_secrets(self, after: Option<EndpointId>) -> Result<Reencryption> {
        let mut tx = self.0.engine.begin().await?;
        let lock = tx.dialect().lock(" FOR UPDATE");
        let sql = "SELECT id, org_id, secret, earlier_secrets, headers
                   FROM endpoints WHERE id > $1 ORDER BY id LIMIT $2";
        // No endpoint has the least id.
        let after = after.map_or(Uuid::nil(), EndpointId::uuid);
        let args = || args![after, REENCRYPTED_PER_STEP];
        // Those that change get a new version: a server that could not read one reads it again. So their
        // organisations are locked first.
        let mut versions = BTreeMap::new();
        for row in tx.all(sql, args()).await? {
            if let Ok(Some(_)) = self.reencrypted(&row)? {
                versions.insert(row.get("org_id")?, 0);
            }
        }
        for (org, version) in &mut versions {
            *version = next_version(&mut tx, *org).await?;
        }
        let rows = tx.all(format!("{sql}{lock}"), args()).await?;
        let mut reencrypted = Reencryption { endpoints: rows.len(), ..Reencryption::default() };
        for row in &rows {
            let (id, org): (EndpointId, OrgId) = (row.get("id")?, row.get("org_id")?);
            match (self.reencrypted(row)?, versions.get(&org)) {
                (Ok(Some(columns)), Some(version)) => {
                    let SecretColumns { secret, earlier_secrets, headers } = columns;
                    let update = "UPDATE endpoints
                                  SET secret = $2, earlier_secrets = $3, headers = $4, version = $5
                                  WHERE id = $1";
                    let args = args![id, secret, earlier_secrets, headers, *version];
                    tx.execute(update, args).await?;
                    reencrypted.encrypted += 1;
                }
                // Added meanwhile, encrypted by the first key of another server; the next run finds it.
                (Ok(Some(_)), None) | (Ok(None), _) => {}
                (Err(_), _) => reencrypted.unreadable.push(id),
            }
            reencrypted.next = Some(id);
        }
        if rows.len() < REENCRYPTED_PER_STEP {
            reencrypted.next = None;
        }
        tx.commit().await?;
        Ok(reencrypted)
    }

    /// The secrets of an endpoint's row, encrypted by the first key; `None` if they are.
    fn reencrypted(self, row: &Row) -> Result<Decrypted<Option<SecretColumns>>> {
        let context = CipherContext { org: row.get("org_id")?, endpoint: row.get("id")? };
        self.0.keyring.reencrypt(context, &SecretColumns::read(row)?)
    }

    /// The keys that some text is encrypted by and that `SECRETS_KEY` does not list. Reads every
    /// endpoint, for a server that starts.
    pub async fn missing_keys(self) -> Result<Vec<MissingKey>> {
        let sql = format!(
            "SELECT substr(text, 1, {KEY_HEAD_CHARS}) AS head, count(*) AS count
             FROM (SELECT secret AS text FROM endpoints
                   UNION ALL SELECT earlier_secrets FROM endpoints
                   UNION ALL SELECT headers FROM endpoints) texts
             WHERE substr(text, 1, {}) = '{HEAD}'
             GROUP BY head ORDER BY head",
            HEAD.len()
        );
        let mut missing = Vec::new();
        for row in self.0.engine.all(sql, args![]).await? {
            let head: String = row.get("head")?;
            if !self.0.keyring.knows(&head) {
                let id = key_id_of(&head).to_owned();
                missing.push(MissingKey { id, texts: row.get("count")? });
            }
        }
        Ok(missing)
    }
}
