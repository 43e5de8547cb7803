module app

go 1.15
