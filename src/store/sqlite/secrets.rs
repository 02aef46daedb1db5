//! Endpoints' secrets.

use std::time::Duration;

use uuid::Uuid;

use super::{SqliteEngine, audit};
use crate::domain::{
    Actor, Endpoint, EndpointId, OrgId, SecretRotationRefusal, SigningSecret, Timestamp,
};
use crate::store::audit::AuditRecord;
use crate::store::crypto::{SEALED_HEAD_CHARS, SealContext};
use crate::store::rows::{self, endpoint_columns};
use crate::store::{MissingKey, RESEALED_PER_STEP, Resealed, StoreError};

impl SqliteEngine {
    pub(crate) async fn rotate_secret(
        &self,
        org: OrgId,
        id: EndpointId,
        new: &SigningSecret,
        overlap: Duration,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Result<Endpoint, SecretRotationRefusal>, StoreError> {
        let mut tx = self.begin().await?;
        let found = sqlx::query(concat!(
            "SELECT ",
            endpoint_columns!(),
            " FROM endpoints WHERE id = ?1 AND org_id = ?2"
        ))
        .bind(id.uuid())
        .bind(org.uuid())
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = found else { return Ok(Err(SecretRotationRefusal::NotFound)) };
        let endpoint = rows::endpoint(&row, 0, &self.keyring)?;
        let secrets = match endpoint.rotated_secrets(new.clone(), overlap, now) {
            Ok(secrets) => secrets,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let place = SealContext { org, endpoint: id };
        let (secret, earlier_secrets) = self.keyring.seal_secrets(place, &secrets)?;
        sqlx::query(
            "UPDATE endpoints SET secret = ?2, earlier_secrets = ?3, updated_at = ?4 WHERE id = ?1",
        )
        .bind(id.uuid())
        .bind(secret)
        .bind(earlier_secrets)
        .bind(now.micros())
        .execute(&mut *tx)
        .await?;
        audit::write(&mut tx, &AuditRecord::secret_rotated(org, id, new), by, now).await?;
        tx.commit().await?;
        Ok(Ok(Endpoint { secrets: Ok(secrets), updated_at: now, ..endpoint }))
    }

    pub(crate) async fn reseal_secrets_across_orgs(
        &self,
        after: Option<EndpointId>,
    ) -> Result<Resealed, StoreError> {
        let mut tx = self.begin().await?;
        let found = sqlx::query(
            "SELECT id, org_id, secret, earlier_secrets, headers
             FROM endpoints WHERE id > ?1
             ORDER BY id LIMIT ?2",
        )
        // No endpoint has the least id.
        .bind(after.map_or(Uuid::nil(), EndpointId::uuid))
        .bind(RESEALED_PER_STEP)
        .fetch_all(&mut *tx)
        .await?;
        let (resealed, changes) = rows::reseal(&found, &self.keyring)?;
        for (id, columns) in changes {
            sqlx::query(
                "UPDATE endpoints SET secret = ?2, earlier_secrets = ?3, headers = ?4
                 WHERE id = ?1",
            )
            .bind(id.uuid())
            .bind(columns.secret)
            .bind(columns.earlier_secrets)
            .bind(columns.headers)
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        Ok(resealed)
    }

    pub(crate) async fn missing_keys_across_orgs(&self) -> Result<Vec<MissingKey>, StoreError> {
        let found = sqlx::query(
            "SELECT substr(sealed, 1, ?1) AS head, count(*)
             FROM (SELECT secret AS sealed FROM endpoints
                   UNION ALL SELECT earlier_secrets FROM endpoints
                   UNION ALL SELECT headers FROM endpoints)
             WHERE substr(sealed, 1, 5) = 'enc1.'
             GROUP BY head ORDER BY head",
        )
        .bind(i64::try_from(SEALED_HEAD_CHARS).unwrap_or(i64::MAX))
        .fetch_all(&self.readers)
        .await?;
        rows::missing_keys(&found, &self.keyring)
    }
}
