DROP INDEX endpoints_failing;
