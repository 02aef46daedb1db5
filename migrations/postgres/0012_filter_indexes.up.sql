-- An index for every filter of a list, in the list's order: organisation, filter, time, id. Event types are compared
-- byte by byte, so that those with a prefix lie together.
CREATE INDEX events_by_type ON events (org_id, event_type COLLATE "C", received_at, id);
CREATE INDEX events_by_account ON events (org_id, account_id, received_at, id) WHERE account_id IS NOT NULL;
CREATE INDEX events_by_user ON events (org_id, user_id, received_at, id) WHERE user_id IS NOT NULL;

-- Most deliveries are delivered: a list of those walks the primary key.
CREATE INDEX deliveries_by_status ON deliveries (org_id, status, created_at, id) WHERE status <> 'delivered';
CREATE INDEX deliveries_by_endpoint_status ON deliveries (endpoint_id, status, created_at, id)
    WHERE status <> 'delivered';

-- The type of the event; NULL for one that the store refused. A trigger writes it, so that older versions write it, too.
ALTER TABLE dead_letters ADD COLUMN event_type text;
UPDATE dead_letters l SET event_type =
    (SELECT e.event_type FROM events e WHERE e.id = l.event_id AND e.org_id = l.org_id
     ORDER BY e.received_at DESC LIMIT 1);
CREATE INDEX dead_letters_by_type ON dead_letters (org_id, event_type COLLATE "C", created_at, id)
    WHERE event_type IS NOT NULL;
CREATE INDEX dead_letters_by_reason ON dead_letters (org_id, reason, created_at, id);
CREATE INDEX dead_letters_replayed ON dead_letters (org_id, created_at, id) WHERE replayed_at IS NOT NULL;
CREATE INDEX dead_letters_unreplayed ON dead_letters (org_id, created_at, id) WHERE replayed_at IS NULL;

-- The id of a delivery tells when its event was accepted, so one partition is enough, but for a redelivery.
CREATE FUNCTION hookgate_dead_letter_type() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    created timestamptz;
BEGIN
    IF NEW.event_type IS NULL AND NEW.delivery_id IS NOT NULL THEN
        created := timestamptz 'epoch' + interval '1 millisecond'
            * ('x' || left(replace(NEW.delivery_id::text, '-', ''), 12))::bit(48)::bigint;
        SELECT e.event_type INTO NEW.event_type FROM events e
        WHERE e.id = NEW.event_id AND e.org_id = NEW.org_id
          AND e.received_at >= created AND e.received_at < created + interval '1 millisecond';
        IF NOT FOUND THEN
            SELECT e.event_type INTO NEW.event_type FROM events e
            WHERE e.id = NEW.event_id AND e.org_id = NEW.org_id
            ORDER BY e.received_at DESC LIMIT 1;
        END IF;
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER dead_letters_type BEFORE INSERT ON dead_letters
    FOR EACH ROW EXECUTE FUNCTION hookgate_dead_letter_type();
