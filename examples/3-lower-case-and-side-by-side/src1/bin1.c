/* bin1 prints the first n primes; n is 10 when nothing says otherwise. */
#include <stdio.h>
#include <stdlib.h>

static int is_prime(unsigned long n)
{
	for (unsigned long d = 2; d * d <= n; d++)
		if (n % d == 0)
			return 0;
	return n > 1;
}

int main(int argc, char **argv)
{
	long left = argc > 1 ? strtol(argv[1], NULL, 10) : 10;

	printf("primes:");
	for (unsigned long n = 2; left > 0; n++)
		if (is_prime(n)) {
			printf(" %lu", n);
			left--;
		}
	putchar('\n');
	return 0;
}
