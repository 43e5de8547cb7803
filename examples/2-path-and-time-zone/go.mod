module my-proj

go 1.15
