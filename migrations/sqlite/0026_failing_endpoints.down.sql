DROP INDEX endpoints_failing_by_org;
DROP INDEX endpoints_failing;
